"""Utility: what each model still answers, and whether the class is hidden without its prompt."""

import html
import statistics
from typing import NotRequired, TypedDict

import torch

from pfm.audit import figures, thresholds
from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.rule import Tolerance
from pfm.audit.verdict import Judgement, at_most

ANSWERED = Tolerance.ACCURACY  # how much more than by a guess the hidden class may be answered


class UtilityRow(TypedDict):
    """One model; shares in [0, 1].

    Keys:
        by_class: accuracy on the test samples of each retained class, by its position.
        worst_drop: the most that one of them lost to the full model.
        average_gap: AvgGap to the retrained model, of UA, RA, TA and membership (two-sided, by entropy), a quarter
            each; not for the baselines.
    """

    forget_accuracy: float
    forget_accuracy_interval: tuple[float, float]
    retain_train_accuracy: float
    retain_test_accuracy: float
    by_class: dict[int, float]
    calibration_error: float
    worst_drop: float
    average_gap: NotRequired[float]


class Utility:
    """FA, RA, TA, calibration, the worst single class, and AvgGap, for every model."""

    name = "utility"
    about = "the answers, for test samples of every class"

    def measure(self, models: Models) -> Measurement[dict[str, UtilityRow]]:
        rows = utility_rows(models)
        hidden = rows["suspended"]
        low, high = hidden["forget_accuracy_interval"]
        guess = 1 / len(models.full.classes)
        limit = guess + ANSWERED
        judgement = Judgement(
            level="suspend",
            measure="not answered",
            value=hidden["forget_accuracy"],
            low=low,
            high=high,
            limit=limit,
            verdict=at_most(low, high, limit),
            reason=f"without its prompt the class is answered for {hidden['forget_accuracy']:.1%} of its samples "
            f"({low:.1%} to {high:.1%}); a retrained model, which cannot answer it, would guess {guess:.1%}, and the "
            f"tolerance is {ANSWERED:.0%}",
        )
        return Measurement(rows, (judgement,))

    def show(self, figures: dict[str, UtilityRow]) -> str:
        cells = []
        for name, row in figures.items():
            gap = f"{100 * row['average_gap']:.1f}" if "average_gap" in row else "–"
            shares = (row["forget_accuracy"], row["retain_train_accuracy"], row["retain_test_accuracy"])
            cells.append(
                [html.escape(name), *(f"{100 * share:.1f}" for share in shares), f"{100 * row['worst_drop']:.1f}",
                 f"{100 * row['calibration_error']:.1f}", gap]
            )  # fmt: skip
        head = ["model", "forget %", "retain train %", "retain test %", "worst drop", "ECE", "AvgGap"]
        return "<h2>Utility</h2>" + table(head, cells)


def utility_rows(models: Models) -> dict[str, UtilityRow]:
    """The row of every model."""
    labels = {name: split.labels for name, split in models.groups.items()}
    by_class = {
        name: _accuracy_by_class(by_group["retain_test"], labels["retain_test"])
        for name, by_group in models.answers.items()
    }
    rows: dict[str, UtilityRow] = {}
    for name, by_group in models.answers.items():
        is_right = {group: log_p.argmax(dim=1) == labels[group] for group, log_p in by_group.items()}
        hits, count = int(is_right["forget_test"].sum()), len(is_right["forget_test"])
        rows[name] = {
            "forget_accuracy": hits / max(1, count),
            "forget_accuracy_interval": figures.share_interval(hits, count),
            "retain_train_accuracy": float(is_right["retain_train"].double().mean()),
            "retain_test_accuracy": float(is_right["retain_test"].double().mean()),
            "by_class": by_class[name],
            "calibration_error": figures.calibration_error(by_group["retain_test"], labels["retain_test"]),
            "worst_drop": max(by_class["full"][c] - value for c, value in by_class[name].items()),
        }
    areas = {
        name: figures.auc(*(thresholds.negative_entropy(by_group[f"forget_{part}"]) for part in ("train", "test")))
        for name, by_group in models.answers_of_trained.items()
    }
    theirs = rows["retrained"]
    for name, area in areas.items():
        mine = rows[name]
        gaps = (
            mine["forget_accuracy"] - theirs["forget_accuracy"],
            mine["retain_train_accuracy"] - theirs["retain_train_accuracy"],
            mine["retain_test_accuracy"] - theirs["retain_test_accuracy"],
            area - areas["retrained"],
        )
        mine["average_gap"] = statistics.fmean(map(abs, gaps))
    return rows


def _accuracy_by_class(log_p: torch.Tensor, labels: torch.Tensor) -> dict[int, float]:
    is_right = (log_p.argmax(dim=1) == labels).double()
    return {int(c): float(is_right[labels == c].mean()) for c in labels.unique()}
