"""Pictures of the measures: the confusion matrix, the reliability diagram, and where removed classes go."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pfm.classes import UNKNOWN
from pfm.evaluation.measures import FieldMeasures
from pfm.evaluation.pictures import CHANCE, FORGET, LINE, MARKER, RETAIN, as_png, new_figure
from pfm.evaluation.removal import SURE, Removal

MOST_NUMBERS = 16  # classes up to which a cell has its number
MOST_NAMES = 60  # classes up to which they have names
LONGEST_NAME = 22  # letters of a name that are shown
CELL_IN = 0.42


def draw_confusion(measures: FieldMeasures, *, title: str) -> bytes:
    """Of each true class, the share of its samples by answer, as a PNG."""
    names = [entry.name for entry in measures.classes]
    counts = np.array(measures.confusion, float)[: len(names)]  # (C, C + 1)
    shares = np.divide(counts, counts.sum(axis=1, keepdims=True), out=np.zeros_like(counts), where=counts > 0)
    columns = [*names, UNKNOWN] if counts[:, -1].any() else names
    return _matrix(
        shares[:, : len(columns)], names, columns, title=title, xlabel="answer", ylabel="class", color="Blues"
    )


def draw_destinations(removal: Removal, *, title: str) -> bytes:
    """Of each class, once it is removed, the share of its samples by answer, and how many are sure; as a PNG."""
    rows = [entry.name for entry in removal.classes]
    found = {name for entry in removal.classes for name in entry.answers_after}
    columns = [*(name for name in rows if name in found), *sorted(found - {*rows, UNKNOWN})]
    columns += [UNKNOWN] if UNKNOWN in found else []
    shares = np.array([[entry.answers_after.get(name, 0.0) for name in columns] for entry in removal.classes])
    sure = [(entry.sure_before, entry.sure_after) for entry in removal.classes]
    return _matrix(
        shares, rows, columns, title=title, xlabel="answer to its samples then", ylabel="removed class",
        color="Oranges", sure=sure,
    )  # fmt: skip


def draw_reliability(measures: FieldMeasures, *, title: str) -> bytes:
    """How often the most probable class is right, by its probability, and how often it has that; as a PNG."""
    found = measures.calibration
    figure = new_figure(4.8, 4.9)
    figure.suptitle(title, weight="bold")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=CHANCE, linestyle="--", linewidth=1.5, label="as sure as it is right")
    above.plot(
        found.confidence, found.accuracy, color=RETAIN, marker="o", markersize=MARKER, linewidth=LINE,
        label=f"model, error {100 * found.ece:.1f} %",
    )  # fmt: skip
    above.set(ylabel="share that is right", ylim=(-0.04, 1.04), xlim=(-0.02, 1.02))
    above.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=1.0)
    below.bar(found.confidence, found.count, width=0.045, color=RETAIN)
    below.set(xlabel="probability of the most probable class", ylabel="samples", yscale="log", ylim=(0.7, None))
    for axis in (above, below):
        axis.grid(alpha=0.25)
    return as_png(figure)


def _matrix(
    shares: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    color: str,
    sure: Sequence[tuple[float, float]] = (),
) -> bytes:
    """Shares (rows, columns) in colours, with numbers where there is room.

    Args:
        sure: of each row, the share of sure answers before and after; drawn beside it.
    """
    is_small = max(len(rows), len(columns)) <= MOST_NUMBERS
    cell = CELL_IN if is_small else max(0.06, min(CELL_IN, 9 / max(len(rows), len(columns))))
    beside = 2.2 if sure else 0.0
    letters = 0.085 * min(LONGEST_NAME, max(map(len, (*rows, *columns)))) if len(rows) <= MOST_NAMES else 0.0
    width = max(3.6, cell * len(columns) + letters + 1.0) + beside
    figure = new_figure(width, max(3.0, cell * len(rows) + 0.8 * letters + 1.2))
    figure.suptitle(title, weight="bold")
    ratios = (max(cell * len(columns), 1.6), 1.6)
    axes: Any = figure.subplots(1, 2, sharey=True, width_ratios=ratios) if sure else [figure.subplots()]
    axis = axes[0]
    axis.imshow(shares, cmap=color, vmin=0, vmax=1, aspect="auto")
    if len(rows) <= MOST_NAMES:
        size = 9 if is_small else max(5.0, 9 * cell / CELL_IN)
        axis.set_yticks(range(len(rows)), [_short(name) for name in rows], fontsize=size)
        axis.set_xticks(
            range(len(columns)), [_short(name) for name in columns], rotation=45, ha="right", rotation_mode="anchor",
            fontsize=size,
        )  # fmt: skip
    if is_small:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                ink = "white" if share > 0.5 else "#22262b"
                axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=9)
    axis.set(xlabel=f"{xlabel}, %", ylabel=ylabel)
    if sure:
        _draw_sure(axes[1], sure)
    return as_png(figure)


def _draw_sure(axis: Any, sure: Sequence[tuple[float, float]]) -> None:
    places = range(len(sure))
    for (before, after), place in zip(sure, places, strict=True):
        axis.plot([100 * before, 100 * after], [place, place], color=CHANCE, linewidth=1, zorder=1)
    axis.scatter([100 * before for before, _ in sure], places, color=RETAIN, s=28, label="before")
    axis.scatter([100 * after for _, after in sure], places, color=FORGET, s=28, marker="s", label="after")
    axis.set(xlim=(-5, 105), xticks=(0, 50, 100), xlabel=f"answers sure at {100 * SURE:.0f} %, %")
    axis.grid(alpha=0.25, axis="x")
    axis.tick_params(axis="y", length=0, labelleft=False)
    axis.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, columnspacing=0.8)


def _short(name: str) -> str:
    """A name as a picture takes it: no valid text is "?", and a dollar does not begin a formula."""
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return short.encode(errors="replace").decode().replace("$", r"\$")
