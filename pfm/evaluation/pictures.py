"""Pictures of an evaluation: the one module of `pfm` that knows matplotlib."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfm.evaluation.subsets import SubsetAccuracies
from pfm.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORGET, RETAIN, CHANCE = "#c0392b", "#2471a3", "#7f8c8d"


def new_figure(width_in: float, height_in: float, **kwargs: Any) -> "Figure":
    """A figure that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=120, layout="constrained", **kwargs)


def save_figure(figure: "Figure", path: Path) -> None:
    write_bytes(path, as_png(figure))


def as_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


@dataclass(frozen=True)
class Curve:
    """One line of a chart; `low` and `high` are its interval."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    is_dashed: bool = False


def draw_curves(
    panels: Mapping[str, Mapping[str, Curve]], *, xlabel: str, ylabel: str, is_log: bool = False, ticks: bool = False
) -> bytes:
    """Panels of lines beside each other, as a PNG.

    Args:
        panels: title -> label -> line.
        is_log: both axes logarithmic, as for the left end of a ROC curve.
        ticks: the x values are few and named on the axis as they are, evenly spaced.
    """
    figure = new_figure(3.4 * len(panels) + 1, 3.6)  # three of them are a page wide, and small print stays legible
    for axis, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        names = sorted({value for curve in curves.values() for value in curve.x}) if ticks else []
        for label, curve in curves.items():
            x = [names.index(value) for value in curve.x] if ticks else list(curve.x)
            style = "--" if curve.is_dashed else "-"
            (line,) = axis.plot(x, list(curve.y), style, marker="o" if ticks else None, markersize=4, label=label)
            if curve.low is not None and curve.high is not None:
                axis.fill_between(x, list(curve.low), list(curve.high), color=line.get_color(), alpha=0.18, linewidth=0)
        if is_log:
            axis.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
        if ticks:
            axis.set_xticks(range(len(names)), [f"{name:g}" for name in names])
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    return as_png(figure)


def draw_bars(groups: Mapping[str, Mapping[str, float]], *, ylabel: str) -> bytes:
    """Bars by group and label, as a PNG.

    Args:
        groups: label of the bars' colour -> name on the axis -> height.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    figure = new_figure(max(4.4, 1.1 * len(names) + 1), 3.6)
    axis = figure.subplots()
    width = 0.8 / len(groups)
    for number, (label, values) in enumerate(groups.items()):
        places = [position + (number - (len(groups) - 1) / 2) * width for position in range(len(names))]
        axis.bar(places, [values.get(name, 0.0) for name in names], width, label=label)
    axis.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25, axis="y")
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=len(groups))
    return as_png(figure)


def draw_forgetting(runs: dict[str, Sequence[SubsetAccuracies]], path: Path, *, num_classes: int, title: str) -> None:
    """Forget and retain accuracy against the number of removed classes, with the chance line.

    Args:
        runs: one panel for each, by title.
    """
    figure = new_figure(4.6 * len(runs) + 0.6, 4.2)
    figure.suptitle(title)
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axis, (name, entries) in zip(axes, runs.items(), strict=True):
        ks = [entry.k for entry in entries]
        for label, color, marker in (("retain", RETAIN, "o"), ("forget", FORGET, "s")):
            means = [100 * entry.summary()[f"{label}_mean"] for entry in entries]
            stds = [100 * entry.summary()[f"{label}_std"] for entry in entries]
            axis.errorbar(ks, means, yerr=stds, color=color, marker=marker, capsize=4, label=f"{label} accuracy")
        axis.axhline(100 / num_classes, color=CHANCE, linestyle="--", linewidth=1, label=f"chance, 1/{num_classes}")
        axis.set(xticks=ks, xlabel="classes removed (k)", ylim=(-3, 103), title=name)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("test accuracy, %  (mean ± std over subsets)")
    axes[0].legend(loc="center left", frameon=False)
    save_figure(figure, path)
