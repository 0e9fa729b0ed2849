"""Scrub: retune the shared weights without the class's data until the class is no easier to bring back.

Each round shrinks the shared weights towards their untrained values, which loosens what they hold of the
class, and trains on with the retained samples alone, which restores what those need. (Shrink and perturb:
Ash and Adams, 2020, arXiv 1910.08475.) After a round the resurrection gap to a retrained model is
measured; that takes samples of the class, to attack with and never to train on.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from pfm.audit.comparisons.data import by_position, without_classes
from pfm.audit.comparisons.trained import Comparisons
from pfm.audit.comparisons.tuning import tune
from pfm.audit.comparisons.untrained import untrained
from pfm.audit.config import AuditConfig
from pfm.audit.resurrection import Attacker, Recovery, gap_interval
from pfm.audit.subject import Loaded, as_subject
from pfm.classes import ClassKeys, check_removal
from pfm.data.splits import ClassificationData, Split
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


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round achieved; the first is the erased model before any retuning.

    Attributes:
        gap, gap_low, gap_high: the largest resurrection gap over n, and its interval.
        retain_accuracy: of the retained classes' test samples, in [0, 1].
    """

    epochs: int
    seconds: float
    gap: float
    gap_low: float
    gap_high: float
    retain_accuracy: float

    def describe(self) -> str:
        """One line for people."""
        return (
            f"resurrection gap {self.gap:+.3f} ({self.gap_low:+.3f} to {self.gap_high:+.3f}), retained "
            f"{100 * self.retain_accuracy:.1f} % after {self.epochs} epochs ({self.seconds:.0f} s)"
        )


@dataclass(frozen=True, kw_only=True)
class ScrubReport:
    """Whether a scrub got within its tolerance, and what it cost.

    Attributes:
        is_within: the last round's gap is at most epsilon, by the upper end of its interval.
        retained_cost: accuracy that the retained classes lost, in [0, 1].
        retrain_s: seconds that retraining without the classes took.
    """

    epsilon: float
    is_within: bool
    retained_cost: float
    retrain_s: float
    rounds: tuple[Round, ...]

    def to_dict(self) -> dict[str, object]:
        return dataclasses.asdict(self)


def scrub(
    full: Checkpoint,
    data: ClassificationData,
    keys: ClassKeys,
    config: ScrubConfig,
    attack: AuditConfig,
    folder: Path,
    device: torch.device,
    *,
    say: Callable[[str], None] = print,
) -> tuple[Checkpoint, ScrubReport]:
    """The erased checkpoint with retuned shared weights, and what every round achieved.

    Args:
        folder: where the retrained model is kept that the gap is measured to.
    """
    positions = full.classes.positions(keys)
    check_removal(full.classes, positions)
    data = by_position(data, full)
    retained = without_classes(data, positions)
    comparisons = Comparisons(full, data, positions, folder, device, say)
    recipe, oracle = comparisons.recipe, comparisons.retrained()
    meter = _Meter(Attacker(data, positions, attack, device), Loaded.of(oracle.checkpoint, device), retained.test)
    smaller = erase(full, [full.classes.names[p] for p in positions])
    loaded = Loaded.of(smaller, device)
    epochs = max(1, round(config.budget * recipe.train.epochs / config.rounds))
    rounds = [meter.measure(loaded, epochs=0, seconds=0.0)]
    say(rounds[-1].describe())
    while rounds[-1].gap_high > config.epsilon and len(rounds) <= config.rounds:
        started = time.monotonic()
        shrink(loaded.model, smaller, config.keep)
        tune(loaded.model, retained.train, smaller, recipe, epochs=epochs, lr=config.lr_share * recipe.train.lr)
        rounds.append(meter.measure(loaded, epochs=epochs, seconds=time.monotonic() - started))
        say(rounds[-1].describe())
    tensors = {name: tensor.detach().cpu() for name, tensor in loaded.model.trained_tensors().items()}
    report = ScrubReport(
        epsilon=config.epsilon,
        is_within=rounds[-1].gap_high <= config.epsilon,
        retained_cost=rounds[0].retain_accuracy - rounds[-1].retain_accuracy,
        retrain_s=oracle.seconds,
        rounds=tuple(rounds),
    )
    return dataclasses.replace(smaller, tensors={**smaller.tensors, **tensors}, averaged={}, moments={}), report


@torch.no_grad()
def shrink(model: PromptedClassifier, checkpoint: Checkpoint, keep: float) -> None:
    """Move what is trained and belongs to no class towards its untrained value, in place."""
    fresh = untrained(checkpoint).trained_tensors()
    for name, tensor in model.trained_tensors().items():
        if name not in class_row_names():
            tensor.lerp_(fresh[name].to(tensor), 1 - keep)


class _Meter:
    """Attacks a model as an audit would, beside the retrained one, which is attacked once.

    Args:
        test: the retained classes' test samples; labels are positions in the attacked models.
    """

    def __init__(self, attacker: Attacker, retrained: Loaded, test: Split) -> None:
        self.attacker = attacker
        self.test = test
        self.reference = self._attack(retrained)

    def measure(self, loaded: Loaded, *, epochs: int, seconds: float) -> Round:
        """The largest gap over n, and what the retained classes pay."""
        gaps = [
            gap_interval(mine, theirs, make_generator(self.attacker.config.seed, "gap", n))
            for n, (mine, theirs) in enumerate(zip(self._attack(loaded), self.reference, strict=True))
        ]
        gap, (low, high) = max(gaps, key=lambda entry: entry[0])
        subject = as_subject("scrubbed", loaded, loaded.model.classes.ids)
        is_right = subject.log_probabilities(self.test).argmax(dim=1) == self.test.labels
        return Round(
            epochs=epochs,
            seconds=seconds,
            gap=gap,
            gap_low=low,
            gap_high=high,
            retain_accuracy=float(is_right.double().mean()),
        )

    def _attack(self, loaded: Loaded) -> list[Recovery]:
        config = self.attacker.config
        return [self.attacker.attack(loaded, size=size, tokens=config.tokens[0]) for size in config.sizes]
