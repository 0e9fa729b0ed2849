"""Membership by thresholds: who was trained on, told from what every model answers.

Within the class, its training samples against its test samples, so that no attack succeeds by telling classes apart.
"""

import html
from typing import Any, TypedDict

from pfm.audit import figures, thresholds
from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.roc import draw, rows_of, table_of, with_curve
from pfm.audit.verdict import Judgement, within
from pfm.seeds import make_generator

LEAST_TOLERANCE = 0.05  # of a difference in area, however small epsilon is
LABEL_FREE = ("confidence", "entropy")  # scores for which the class needs no label, since it has none any more
SHOWN = (("full", "before"), ("forgotten", "after"), ("retrained", "never saw it"))

# {model: {"forget" or "retain": {score: figures}}}, and under "gap" {score: Gap}
MembershipFigures = dict[str, dict[str, Any]]


class Gap(TypedDict):
    """The area of the forgotten model less that of the retrained one, and its interval."""

    gap: float
    low: float
    high: float


class Membership:
    """Threshold attacks on every model, and the forgotten one's distance from the retrained one."""

    name = "membership"

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
        found["gap"] = {score: self._gap(models, score) for score in LABEL_FREE}
        limit = max(models.config.epsilon, LEAST_TOLERANCE)
        judgements = tuple(
            Judgement(
                level="scrub",
                measure=f"membership by {score}",
                value=gap["gap"],
                low=gap["low"],
                high=gap["high"],
                limit=limit,
                verdict=within(gap["low"], gap["high"], limit),
                reason=f"AUC differs from that of the retrained model by {gap['gap']:+.3f} ({gap['low']:+.3f} to "
                f"{gap['high']:+.3f})",
            )
            for score, gap in found["gap"].items()
        )
        return Measurement(found, judgements)

    def _gap(self, models: Models, score: str) -> Gap:
        areas, replicates = [], []
        for name in ("forgotten", "retrained"):
            by_group, groups = models.answers[name], models.groups
            inside = thresholds.all_scores(by_group["forget_train"], groups.forget_train.labels)[score]
            outside = thresholds.all_scores(by_group["forget_test"], groups.forget_test.labels)[score]
            areas.append(figures.auc(inside, outside))
            # the same samples are drawn for both
            replicates.append(figures.auc_replicates(inside, outside, make_generator("membership", score)))
        low, high = figures.interval(replicates[0] - replicates[1])
        return {"gap": areas[0] - areas[1], "low": low, "high": high}

    def show(self, figures: MembershipFigures) -> str:
        attacked = {name: sides["forget"] for name, sides in figures.items() if "forget" in sides}
        rows = [row for name, found in attacked.items() for row in rows_of(html.escape(name), found)]
        return (
            "<h2>Membership inference</h2>"
            "<p>Training samples of the forgotten classes against their test samples. Below ½ the attacker flips the "
            "sign, so what counts is the distance from ½.</p>"
            + table_of(rows)
            + draw("ROC curves", {title: attacked[name] for name, title in SHOWN})
        )
