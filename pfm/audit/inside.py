"""What an attacker with the weights gets: the resurrection gap, and a linear probe for the class by layer."""

import statistics
from collections.abc import Sequence
from typing import Any

import torch

from pfm.audit import figures, probe, resurrection
from pfm.audit.groups import AuditConfig, Groups
from pfm.audit.rivals import renumber
from pfm.data.inputs import Preprocess
from pfm.data.splits import ClassificationData
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.seeds import make_generator


def resurrection_gaps(
    forgotten: PromptedClassifier,
    oracles: list[PromptedClassifier],
    attacked: Checkpoint,
    oracle_states: list[Checkpoint],
    groups: Groups,
    config: AuditConfig,
    positions: Sequence[int],
    device: torch.device,
) -> list[dict[str, Any]]:
    """S@n of the forgotten model, of the oracles and of the control, and the gap, for each n and m."""
    pools = {
        "class": torch.arange(len(groups.forget_train)),
        # the control knows nothing of the class: its samples carry the label of the class by chance
        "shuffled": torch.arange(len(groups.retain_train)),
    }
    kept = renumber(len(positions) + len(oracle_states[0].classes), positions)
    retain_labels = kept[groups.retain_test.labels].to(device)
    found = []
    for tokens in config.tokens:
        for size in config.sizes:

            def attack(
                model: PromptedClassifier, state: Checkpoint, pool: str, tokens: int = tokens, size: int = size
            ) -> resurrection.Recovery:
                split = groups.forget_train if pool == "class" else groups.retain_train
                limit = min(size, len(groups.forget_train))
                chosen = resurrection.choose_samples(pools[pool], limit, config.attack_seeds, config.seed, pool)
                images = split.inputs[chosen.flatten()].to(device)
                return resurrection.resurrect(
                    model,
                    state.preprocess(images).unflatten(0, chosen.shape),
                    state.preprocess(groups.forget_test.inputs.to(device)),
                    state.preprocess(groups.retain_test.inputs.to(device)),
                    retain_labels,
                    num_tokens=tokens,
                    steps=config.attack_steps,
                    lr=config.attack_lr,
                    seed=config.seed,
                )

            mine = attack(forgotten, attacked, "class")
            theirs = [attack(m, state, "class") for m, state in zip(oracles, oracle_states, strict=True)]
            control = attack(forgotten, attacked, "shuffled")
            gaps = [
                resurrection.gap_interval(mine, other, make_generator(config.seed, "gap", size)) for other in theirs
            ]
            found.append(
                {
                    "n": min(size, len(groups.forget_train)),
                    "tokens": tokens,
                    "forgotten": _recovered(mine),
                    "retrained": [_recovered(other) for other in theirs],
                    "control": _recovered(control),
                    "gap": statistics.fmean(gap for gap, _ in gaps),
                    # over several oracles, whatever any of them allows
                    "gap_low": min(low for _, (low, _) in gaps),
                    "gap_high": max(high for _, (_, high) in gaps),
                }
            )
    return found


def _recovered(recovery: resurrection.Recovery) -> dict[str, Any]:
    low, high = float(recovery.selective.min()), float(recovery.selective.max())
    return {
        "selective": float(recovery.selective.mean()),
        "selective_range": [low, high],
        "forget": float(recovery.forget.double().mean()),
        "retain": float(recovery.retain.double().mean()),
        "auroc": float(recovery.auroc.mean()),
        "num_attacks": len(recovery.selective),
    }


def probes(
    models: dict[str, PromptedClassifier],
    preprocess: dict[str, Preprocess],
    data: ClassificationData,
    groups: Groups,
    config: AuditConfig,
) -> dict[str, Any]:
    """A linear probe for the class on each layer, and CKA between the forgotten model and the oracle."""
    is_gone = torch.isin(data.train.labels, groups.forget_test.labels.unique())
    is_gone_test = torch.isin(data.test.labels, groups.forget_test.labels.unique())
    hits: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    features: dict[str, list[torch.Tensor]] = {}
    for name in ("full", "forgotten", "retrained", "finetuned"):
        train = probe.layer_features(models[name], preprocess[name](data.train.inputs))
        features[name] = probe.layer_features(models[name], preprocess[name](data.test.inputs))
        hits[name] = [probe.probe(a, is_gone, b, is_gone_test) for a, b in zip(train, features[name], strict=True)]

    def balanced(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
        return 0.5 * float(pair[0].double().mean() + pair[1].double().mean())

    generator = make_generator(config.seed, "probe")
    mine, theirs = hits["forgotten"][-1], hits["retrained"][-1]
    replicates = torch.zeros(figures.REPLICATES, dtype=torch.float64)
    for side in (0, 1):
        drawn = figures.draw_counts(len(mine[side]), figures.REPLICATES, generator)
        replicates += 0.5 * drawn @ (mine[side].double() - theirs[side].double()) / len(mine[side])
    low, high = figures.interval(replicates)
    return {
        "accuracy": {name: [balanced(pair) for pair in pairs] for name, pairs in hits.items()},
        "gap": balanced(mine) - balanced(theirs),
        "gap_low": low,
        "gap_high": high,
        "cka": [figures.linear_cka(a, b) for a, b in zip(features["forgotten"], features["retrained"], strict=True)],
    }
