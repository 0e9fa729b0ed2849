"""Pictures of an evaluation: the one module of `pfm` that knows matplotlib."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfm.evaluation import SubsetAccuracies
from pfm.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORGET, RETAIN, CHANCE = "#c0392b", "#2471a3", "#7f8c8d"


def new_figure(width_in: float, height_in: float, **kwargs: Any) -> "Figure":
    """A figure that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=120, layout="constrained", **kwargs)


def save_figure(figure: "Figure", path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_bytes(path, buffer.getbuffer())


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
