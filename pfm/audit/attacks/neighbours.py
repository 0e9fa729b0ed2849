"""Over-unlearning: whether the classes next to the forgotten one lost more than by never having seen it.

Neighbours are the classes that the retrained models take samples of the forgotten one for.
"""

from collections.abc import Mapping
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.rule import Side, Tolerance
from pfm.audit.sampled import Sampled, mean_of
from pfm.audit.verdict import by_rule
from pfm.classes import listed

MOST = 3
SHARE = 0.10  # of the samples, from which a class is a neighbour


class NeighbourFigures(TypedDict):
    """Accuracy on the neighbours' test samples, in [0, 1].

    Keys:
        names: of the neighbours, the nearest first.
    """

    names: list[str]
    full: float
    forgotten: float
    retrained: list[float]


class Neighbours:
    """Judged is a loss only: a neighbour that became better is no harm."""

    name = "neighbours"
    about = "the answers, for test samples of the classes next to it"

    def measure(self, models: Models) -> Measurement[NeighbourFigures]:
        chosen = nearest(models)
        labels = models.groups.retain_test.labels
        is_near = torch.isin(labels, torch.tensor(chosen))

        def accuracy(by_group: Mapping[str, torch.Tensor]) -> Sampled:
            return mean_of((by_group["retain_test"].argmax(dim=1) == labels)[is_near])

        found = models.compare(accuracy, Tolerance.RETAINED, side=Side.BELOW)
        names = [models.full.classes.names[position] for position in chosen]
        what = f"accuracy on its neighbours ({listed(names)}) is"
        return Measurement(
            {
                "names": names,
                "full": accuracy(models.answers["full"]).value,
                "forgotten": found.value,
                "retrained": list(found.oracles),
            },
            (by_rule("scrub", "over-unlearning of neighbours", found, what),),
        )

    def show(self, figures: NeighbourFigures) -> str:
        rows = [
            ["before", f"{100 * figures['full']:.1f} %"],
            ["after", f"{100 * figures['forgotten']:.1f} %"],
            *([f"retrained model {n + 1}", f"{100 * value:.1f} %"] for n, value in enumerate(figures["retrained"])),
        ]
        return "<h2>Neighbours of the class</h2>" + table(["accuracy on them", ""], rows)


def nearest(models: Models) -> list[int]:
    """Positions of the neighbours, the nearest first; at least one."""
    count = len(models.full.classes)
    answered = torch.cat([by_group["forget_test"].argmax(dim=1) for by_group in models.answers_of_oracles])
    shares = torch.bincount(answered, minlength=count + 1)[:count].double() / len(answered)
    shares[models.positions] = -1
    order = shares.argsort(descending=True, stable=True).tolist()
    return [position for number, position in enumerate(order[:MOST]) if number == 0 or shares[position] >= SHARE]
