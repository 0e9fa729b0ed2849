"""Prototypes: the mean feature of n samples of the class as a row, without any training."""

from collections.abc import Sequence
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import counted, table
from pfm.audit.models import Features, Models
from pfm.audit.prototypes import scores
from pfm.audit.resurrection import choose_samples
from pfm.audit.sampled import Sampled, area_of, compare, placed
from pfm.audit.verdict import by_rule


class PrototypeFigures(TypedDict):
    """AUROC of the likeness to the prototype, class against rest, means over the draws.

    Keys:
        control: prototypes of samples of other classes.
    """

    n: int
    forgotten: float
    retrained: list[float]
    control: float


class Prototypes:
    """Judged is the prototype of all training samples of the class; what fewer give is shown."""

    name = "prototypes"
    about = "the weights and samples of the class; trains nothing"

    def measure(self, models: Models) -> Measurement[list[PrototypeFigures]]:
        forgotten, oracles = models.last_layers
        have = len(models.groups.forget_train)
        sizes = sorted({min(size, have) for size in models.config.sizes if size} | {have})
        found: list[PrototypeFigures] = []
        judged = compare(_attack(models, forgotten, have), [_attack(models, o, have) for o in oracles],
                         models.config.epsilon)  # fmt: skip
        for size in sizes:
            found.append(
                {
                    "n": size,
                    "forgotten": _attack(models, forgotten, size).value,
                    "retrained": [_attack(models, oracle, size).value for oracle in oracles],
                    "control": _attack(models, forgotten, size, is_control=True).value,
                }
            )
        what = f"AUROC of the likeness to the mean feature of {counted(have, 'sample')} is"
        return Measurement(found, (by_rule("scrub", "prototype", judged, what),))

    def show(self, figures: list[PrototypeFigures]) -> str:
        rows = [
            [counted(entry["n"], "sample"), f"{entry['forgotten']:.3f}",
             _listed(entry["retrained"]), f"{entry['control']:.3f}"]
            for entry in figures
        ]  # fmt: skip
        return (
            "<h2>Prototypes</h2><p>The mean feature of some samples of the class as a row, without training. Shown is "
            "the AUROC of the likeness to it, class against rest; the control has samples of other classes.</p>"
            + table(["mean of", "forgotten", "retrained models", "control"], rows)
        )


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def _attack(models: Models, features: Features, size: int, *, is_control: bool = False) -> Sampled:
    """AUROC on the test samples, by prototypes from as many draws as there are attacks (one of all samples)."""
    is_gone, is_gone_test = models.is_gone
    pool = (is_gone if not is_control else ~is_gone).nonzero()[:, 0]
    draws = models.config.attack_seeds if is_control or size < len(pool) else 1
    chosen = choose_samples(pool, size, draws, models.config.seed, "prototype")
    found = scores(features.test, features.train[chosen], features.train[~is_gone].mean(dim=0))
    areas = [area_of(row[is_gone_test], row[~is_gone_test]).parts for row in found]
    own, rest = (torch.stack(side).mean(dim=0) for side in zip(*areas, strict=True))
    return placed(own, rest)
