"""Membership by thresholds: who was trained on, told from what every model answers.

Within the class, its training samples against its test samples, so that no attack succeeds by telling classes apart.
"""

import html
from collections.abc import Iterator, Mapping

import torch

from pfm.audit import thresholds
from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.roc import CurveFigures, draw, rows_of, table_of, with_curve
from pfm.audit.rule import Tolerance
from pfm.audit.sampled import Sampled, area_of
from pfm.audit.verdict import Judgement, by_rule

SCORE = "entropy"  # of those for which the class needs no label, since it has none any more
SHOWN = (("full", "before"), ("forgotten", "after"), ("retrained", "never saw it"))

# {model: {"forget" or "retain": {score: figures}}}
MembershipFigures = dict[str, dict[str, dict[str, CurveFigures]]]


class Membership:
    """Threshold attacks on every model, and the forgotten one's distance from the retrained ones."""

    name = "membership"
    about = "the probabilities, for samples of which some were trained on"

    def measure(self, models: Models) -> Measurement[MembershipFigures]:
        found: MembershipFigures = {}
        for name, by_group in models.answers_of_trained.items():
            found[name] = {}
            for side, train, test in models.groups.sides():
                inside = thresholds.all_scores(by_group[f"{side}_train"], train.labels)
                outside = thresholds.all_scores(by_group[f"{side}_test"], test.labels)
                found[name][side] = {
                    score: with_curve(inside[score], outside[score], models.generator)
                    for score in inside
                    if score in outside
                }
        return Measurement(found, tuple(_judgements(models)))

    def show(self, figures: MembershipFigures) -> str:
        attacked = {name: sides["forget"] for name, sides in figures.items()}
        rows = [row for name, found in attacked.items() for row in rows_of(html.escape(name), found)]
        return (
            "<h2>Membership inference</h2>"
            "<p>Training samples of the forgotten classes against their test samples. Below ½ the attacker flips the "
            "sign, so what counts is the distance from ½.</p>"
            + draw("ROC curves", {title: attacked[name] for name, title in SHOWN})
            + table_of(rows)
        )


def _judgements(models: Models) -> Iterator[Judgement]:
    """Both sides: samples of the class, and those that were kept, which a removal may expose."""
    sides = (("forget", "membership of the class", Tolerance.MEMBERSHIP),
             ("retain", "membership of the retained", Tolerance.MEMBERSHIP_RETAINED))  # fmt: skip
    for side, measure, tolerance in sides:

        def area(by_group: Mapping[str, torch.Tensor], side: str = side) -> Sampled:
            return area_of(*(thresholds.negative_entropy(by_group[f"{side}_{part}"]) for part in ("train", "test")))

        found = models.compare(area, tolerance)
        yield by_rule("scrub", measure, found, f"AUC of the attack by {SCORE} is")
