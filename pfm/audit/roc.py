"""A membership attack with its ROC curve: as figures, as rows of a table, as a picture."""

import math
from collections.abc import Mapping

import torch

from pfm.audit import figures, thresholds
from pfm.audit.markup import picture, table
from pfm.evaluation.pictures import Curve, draw_curves

CURVE_POINTS = 100


class CurveFigures(thresholds.AttackFigures):
    """The same with the curve, thinned: false and true positive rates."""

    roc: list[list[float]]


def with_curve(members: torch.Tensor, others: torch.Tensor, generator: torch.Generator) -> CurveFigures:
    """An attack by a threshold on scores of members and of others."""
    found = thresholds.attack(members, others, generator)
    return {**found, "roc": thin(*figures.roc(members, others))}


def thin(false: list[float], true: list[float]) -> list[list[float]]:
    """At most so many points of a curve, its ends kept."""
    step = max(1, math.ceil(len(false) / CURVE_POINTS))
    chosen = [*range(0, len(false), step), len(false) - 1]
    return [[round(false[i], 5) for i in chosen], [round(true[i], 5) for i in chosen]]


def rows_of(name: str, found: Mapping[str, CurveFigures]) -> list[list[str]]:
    """One row of `table_of` for each score by which a model was attacked."""
    return [
        [f"{name}: {score.replace('_', ' ')}", f"{one['auc']:.3f}", f"{one['auc_low']:.3f} – {one['auc_high']:.3f}",
         f"{100 * one['tpr_at_1pct']:.1f} %", f"{100 * one['tpr_at_01pct']:.1f} %"]
        for score, one in found.items()
    ]  # fmt: skip


def table_of(rows: list[list[str]]) -> str:
    """The attacks as a table."""
    return table(["model and score", "AUC", "95 %", "TPR at 1 % FPR", "TPR at 0.1 %"], rows)


def draw(alt: str, panels: Mapping[str, Mapping[str, CurveFigures]]) -> str:
    """The curves in panels by their titles, each beside chance, both axes logarithmic."""
    line = [10 ** (-3 + 3 * i / 20) for i in range(21)]
    curves = {
        title: {**{score: Curve(one["roc"][0], one["roc"][1]) for score, one in found.items()},
                "chance": Curve(line, line, is_dashed=True)}
        for title, found in panels.items()
    }  # fmt: skip
    return picture(alt, draw_curves(curves, xlabel="false positive rate", ylabel="true positive rate", is_log=True))
