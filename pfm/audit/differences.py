"""A picture of every comparison with the retrained models: how far the judged one is, in units of the tolerance."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pfm.audit.rule import FAIL, INCONCLUSIVE, PASS
from pfm.evaluation.pictures import as_png, new_figure

COLORS = {PASS: "#1e7d34", FAIL: "#b02a2a", INCONCLUSIVE: "#9a6a00"}
WIDEST = 4.0  # tolerances; what is further away is drawn at the edge, as an arrow


def draw_differences(measures: Sequence[Mapping[str, Any]]) -> bytes | None:
    """One line a comparison, as a PNG; None where there is none.

    Args:
        measures: of a `Verdict`.
    """
    compared = [entry for entry in measures if "comparison" in entry]
    if not compared:
        return None
    figure = new_figure(9.2, 0.36 * len(compared) + 1.5)
    axis = figure.subplots()
    axis.axvspan(-1, 1, color="#1e7d34", alpha=0.10, linewidth=0, label="within the tolerance")
    axis.axvline(0, color="#5f6a6b", linewidth=1)
    for row, entry in enumerate(reversed(compared)):
        found, tolerance, color = entry["comparison"], entry["limit"], COLORS[entry["verdict"]]
        oracles = [value for value in found["oracles"] if math.isfinite(value)]
        middle = sum(oracles) / max(1, len(oracles))
        places = [_inside((value - middle) / tolerance) for value in oracles]
        axis.plot(places, [row] * len(places), "|", color="#5f6a6b", markersize=9, zorder=2)
        low, high, value = (_inside(entry[key] / tolerance) for key in ("low", "high", "value"))
        axis.plot([low, high], [row, row], color=color, linewidth=2.5, solid_capstyle="butt", zorder=3)
        marker = "o" if abs(value) < WIDEST else ">" if value > 0 else "<"
        axis.plot([value], [row], marker, color=color, markersize=7, zorder=4)
    axis.set_yticks(range(len(compared)), [entry["measure"] for entry in reversed(compared)], fontsize=9)
    axis.set(xlim=(-WIDEST - 0.2, WIDEST + 0.2), ylim=(-0.7, len(compared) - 0.3))
    axis.set_xlabel("difference from the retrained models' mean, in tolerances (strokes: each of them)", fontsize=9)
    axis.grid(alpha=0.25, axis="x")
    return as_png(figure)


def _inside(value: float) -> float:
    return max(-WIDEST, min(WIDEST, value)) if math.isfinite(value) else math.copysign(WIDEST, value)
