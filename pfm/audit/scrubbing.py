"""Scrub: retune the shared weights without the class's data until the class is no easier to bring back.

Each round shrinks the shared weights towards their untrained values, which loosens what they hold of the
class, and trains on with the retained samples alone, which restores what those need. (Shrink and perturb:
Ash and Adams, 2020, arXiv 1910.08475.) After a round the resurrection gap to a retrained model is
measured; that takes samples of the class, to attack with and never to train on.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.audit import resurrection
from pfm.audit.groups import AuditConfig, Groups
from pfm.audit.rivals import Rivals, by_position, tune, untrained, without_classes
from pfm.audit.subject import as_subject
from pfm.classes import check_removal
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier, class_row_names
from pfm.seeds import make_generator


@dataclass(frozen=True, kw_only=True)
class ScrubConfig:
    """How hard, and how long.

    Attributes:
        keep: share of the way from the untrained weights that is left after a round's shrinking.
        budget: of the recipe's epochs, over all rounds.
    """

    epsilon: float = 0.05
    keep: float = 0.5
    budget: float = 1.0
    rounds: int = 4
    lr_share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.keep < 1:
            raise ConfigError(f"a scrub that keeps {self.keep:g} of the weights changes nothing; give 0 to below 1")


def scrub(
    full: Checkpoint,
    data: ClassificationData,
    keys: Sequence[str | int],
    config: ScrubConfig,
    attack: AuditConfig,
    folder: Path,
    device: torch.device,
    *,
    say: Callable[[str], None] = print,
) -> tuple[Checkpoint, dict[str, Any]]:
    """The erased checkpoint with retuned shared weights, and what every round achieved.

    Args:
        folder: where the retrained model is kept that the gap is measured to.
    """
    positions = full.classes.positions(keys)
    check_removal(full.classes, positions)
    data = by_position(data, full)
    groups = Groups.of(data, positions)
    retained = without_classes(data, positions)
    rivals = Rivals(full, data, positions, folder, device, say)
    oracle = rivals.retrained()
    reference = _attack(oracle.checkpoint.build_model().to(device), oracle.checkpoint, groups, retained, attack, device)
    smaller = erase(full, [full.classes.names[p] for p in positions])
    model = smaller.build_model().to(device)
    epochs = max(1, round(config.budget * rivals.config.train.epochs / config.rounds))
    rounds = [_measure(model, smaller, reference, groups, retained, attack, device, epochs=0, seconds=0.0)]
    say(_line(rounds[-1]))
    while rounds[-1]["gap_high"] > config.epsilon and len(rounds) <= config.rounds:
        started = time.monotonic()
        shrink(model, smaller, config.keep)
        tune(
            model, retained.train, smaller, rivals.config,
            epochs=epochs, lr=config.lr_share * rivals.config.train.lr,
        )  # fmt: skip
        seconds = time.monotonic() - started
        rounds.append(
            _measure(model, smaller, reference, groups, retained, attack, device, epochs=epochs, seconds=seconds)
        )
        say(_line(rounds[-1]))
    tensors = {name: tensor.detach().cpu() for name, tensor in model.trained_tensors().items()}
    report = {
        "epsilon": config.epsilon,
        "is_within": rounds[-1]["gap_high"] <= config.epsilon,
        "retained_cost": rounds[0]["retain_accuracy"] - rounds[-1]["retain_accuracy"],
        "retrain_s": oracle.seconds,
        "rounds": rounds,
    }
    return dataclasses.replace(smaller, tensors={**smaller.tensors, **tensors}, averaged={}, moments={}), report


@torch.no_grad()
def shrink(model: PromptedClassifier, checkpoint: Checkpoint, keep: float) -> None:
    """Move what is trained and belongs to no class towards its untrained value, in place."""
    fresh = untrained(checkpoint).trained_tensors()
    for name, tensor in model.trained_tensors().items():
        if name not in class_row_names():
            tensor.lerp_(fresh[name].to(tensor), 1 - keep)


def _attack(
    model: PromptedClassifier,
    state: Checkpoint,
    groups: Groups,
    retained: ClassificationData,
    attack: AuditConfig,
    device: torch.device,
) -> list[resurrection.Recovery]:
    """The attack of an audit, for each n."""
    found = []
    for size in attack.sizes:
        pool = torch.arange(len(groups.forget_train))
        chosen = resurrection.choose_samples(pool, size, attack.attack_seeds, attack.seed, "class")
        images = groups.forget_train.inputs[chosen.flatten()].to(device)
        found.append(
            resurrection.resurrect(
                model,
                state.preprocess(images).unflatten(0, chosen.shape),
                state.preprocess(groups.forget_test.inputs.to(device)),
                state.preprocess(groups.retain_test.inputs.to(device)),
                retained.test.labels.to(device),
                num_tokens=attack.tokens[0],
                steps=attack.attack_steps,
                lr=attack.attack_lr,
                seed=attack.seed,
            )
        )
    return found


def _measure(
    model: PromptedClassifier,
    state: Checkpoint,
    reference: list[resurrection.Recovery],
    groups: Groups,
    retained: ClassificationData,
    attack: AuditConfig,
    device: torch.device,
    *,
    epochs: int,
    seconds: float,
) -> dict[str, Any]:
    """The largest gap over n, and what the retained classes pay."""
    mine = _attack(model, state, groups, retained, attack, device)
    gaps = [
        resurrection.gap_interval(a, b, make_generator(attack.seed, "gap", n))
        for n, (a, b) in enumerate(zip(mine, reference, strict=True))
    ]
    gap, (low, high) = max(gaps, key=lambda entry: entry[0])
    log_p = as_subject("scrubbed", model, state.preprocess, state.classes.ids).log_probabilities(retained.test)
    accuracy = float((log_p.argmax(dim=1) == retained.test.labels).double().mean())
    return {"epochs": epochs, "seconds": seconds, "gap": gap, "gap_low": low, "gap_high": high,
            "retain_accuracy": accuracy}  # fmt: skip


def _line(entry: dict[str, Any]) -> str:
    return (
        f"resurrection gap {entry['gap']:+.3f} ({entry['gap_low']:+.3f} to {entry['gap_high']:+.3f}), retained "
        f"{100 * entry['retain_accuracy']:.1f} % after {entry['epochs']} epochs ({entry['seconds']:.0f} s)"
    )
