"""Pictures of an evaluation: the one module of `pfm` that knows matplotlib.

A picture brings its own white ground with some room around it, since a reader's page may be dark, and letters that can
still be read at half its size.
"""

import functools
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pfm.storage import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

FORGET, RETAIN, CHANCE = "#c0392b", "#2471a3", "#5f6a6b"
QUIET = "#4a4f57"  # of what is said beside
# of other lines and bars, as different for the colour-blind
PALETTE = ("#2471a3", "#d35400", "#1e8449", "#8e44ad", "#b7950b", "#5f6a6b", "#17a589", "#c0392b")
DOTS_PER_INCH, ROOM_IN = 160, 0.2
LINE, MARKER = 2.2, 7  # points
COLORS = 256  # of a file
# fonts that have the letters of many scripts, on one system or another
OTHER_SCRIPTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans", "Noto Sans Devanagari", "Noto Sans Thai", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "Microsoft YaHei", "Malgun Gothic", "Hiragino Sans", "PingFang SC", "Arial Unicode MS",
    "Unifont",
)  # fmt: skip
LIMITS = (-4, 106)  # of an axis in percent, so that a marker at its end is whole


def new_figure(width_in: float, height_in: float, *, layout: Literal["constrained"] | None = "constrained") -> "Figure":
    """A figure that needs no display and leaves matplotlib's global state alone."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), dpi=DOTS_PER_INCH, layout=layout, facecolor="white")


def save_figure(figure: "Figure", path: Path) -> None:
    write_bytes(path, as_png(figure))


def as_png(figure: "Figure") -> bytes:
    """Opaque, nothing cut off, with room around it; in few colours, which makes the file half as large."""
    import matplotlib
    from PIL import Image

    drawn, reduced = io.BytesIO(), io.BytesIO()
    usual = matplotlib.rcParams["font.sans-serif"]
    with matplotlib.rc_context({"font.sans-serif": [*usual, *_further_fonts()]}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # it is drawn as a box; no font here has it
        figure.savefig(drawn, format="png", bbox_inches="tight", pad_inches=ROOM_IN)
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(COLORS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(reduced, format="png", optimize=True)
    return reduced.getvalue()


@functools.cache
def _further_fonts() -> tuple[str, ...]:
    """Fonts of the system for the letters of names that matplotlib's own has not."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return tuple(name for name in OTHER_SCRIPTS if name in there)


def use_plain_log_scale(axis: Any) -> None:
    """Logarithmic, with ticks that read 20, 50, 100; `axis` is one of an `Axes`, as `axes.yaxis`."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def show_pixels(axes: Any, values: Any, *, colors: str, low: float, high: float) -> None:
    """An image of few pixels, (H, W), smoothly enlarged; `low` and `high` are shown as the ends of the colour map."""
    axes.imshow(values, cmap=colors, vmin=low, vmax=high, interpolation="bicubic")
    axes.set(xticks=[], yticks=[])


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
    """Panels of lines beside each other, at most three in a row, as a PNG; the legend is below them, over no line.

    Args:
        panels: title -> label -> line.
        is_log: both axes logarithmic, as for the left end of a ROC curve.
        ticks: the x values are few and named on the axis as they are, evenly spaced.
    """
    count = len(panels)
    columns = 2 if count == 4 else min(count, 3)  # three of them are a page wide, and small print stays legible
    rows = math.ceil(count / columns)
    figure = new_figure(3.4 * columns + 1, 3.6 * rows + 0.4)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    lines: dict[str, Line2D] = {}
    colors = {label: PALETTE[number % len(PALETTE)] for number, label in enumerate(labels)}
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        names = sorted({value for curve in curves.values() for value in curve.x}) if ticks else []
        for label, curve in curves.items():
            x = [names.index(value) for value in curve.x] if ticks else list(curve.x)
            style = "--" if curve.is_dashed else "-"
            marker = "o" if ticks else None
            (line,) = axis.plot(
                x, list(curve.y), style, marker=marker, label=label, linewidth=LINE, color=colors[label]
            )
            lines.setdefault(label, line)
            if curve.low is not None and curve.high is not None:
                axis.fill_between(x, list(curve.low), list(curve.high), color=line.get_color(), alpha=0.18, linewidth=0)
        if is_log:
            axis.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
        if ticks:
            axis.set_xticks(range(len(names)), [f"{name:g}" for name in names])
        axis.set(title=title, xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.25)
    for axis in axes[count:]:
        axis.set_visible(False)
    figure.legend(
        list(lines.values()),
        list(lines),
        loc="outside lower center",
        ncols=min(len(lines), 5),
        frameon=False,
        fontsize=9,
    )
    return as_png(figure)


def draw_bars(groups: Mapping[str, Mapping[str, float]], *, ylabel: str) -> bytes:
    """Bars by group and label, as a PNG.

    Args:
        groups: label of the bars' colour -> name on the axis -> height.
    """
    names = list(dict.fromkeys(name for values in groups.values() for name in values))
    figure = new_figure(max(4.4, 1.1 * len(names) + 1), 3.6)
    axis = figure.subplots()
    axis.set_prop_cycle(color=PALETTE)
    width = 0.8 / len(groups)
    for number, (label, values) in enumerate(groups.items()):
        places = [position + (number - (len(groups) - 1) / 2) * width for position in range(len(names))]
        axis.bar(places, [values.get(name, 0.0) for name in names], width, label=label)
    axis.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.25, axis="y")
    figure.legend(frameon=False, fontsize=9, loc="outside upper center", ncols=len(groups))
    return as_png(figure)


def _within(means: Sequence[float], stds: Sequence[float]) -> tuple[list[float], list[float]]:
    """Lengths of error bars below and above, in percent: what is reported has no share below 0 or above 100."""
    known = [(mean, 0.0 if math.isnan(std) else std) for mean, std in zip(means, stds, strict=True)]
    return [max(min(std, mean), 0.0) for mean, std in known], [max(min(std, 100 - mean), 0.0) for mean, std in known]


def draw_forgetting(
    runs: Mapping[str, Mapping[str, Mapping[str, float]]], path: Path, *, num_classes: int, title: str
) -> None:
    """Forget and retain accuracy against the number of removed classes, with the chance line.

    Args:
        runs: title of a panel -> k -> mean and deviation, as in `Evaluation.inference_accuracies`.
    """
    figure = new_figure(3.3 * len(runs) + 0.8, 3.8)
    figure.suptitle(title, weight="bold")
    axes = figure.subplots(1, len(runs), sharey=True, squeeze=False)[0]
    for axis, (name, by_k) in zip(axes, runs.items(), strict=True):
        ks = [int(k) for k in by_k]
        axis.axhline(100 / num_classes, color=CHANCE, linestyle="--", linewidth=1.5, label=f"chance, 1/{num_classes}")
        for key, text, color, marker in (
            ("retain", "classes that were kept", RETAIN, "o"),
            ("forget", "removed classes", FORGET, "s"),
        ):
            means = [100 * entry[f"{key}_mean"] for entry in by_k.values()]
            stds = [100 * entry[f"{key}_std"] for entry in by_k.values()]
            bars = _within(means, stds)
            axis.errorbar(
                ks, means, yerr=bars, color=color, marker=marker, markersize=MARKER, linewidth=LINE, capsize=4,
                elinewidth=1.5, label=text,
            )  # fmt: skip
        axis.set(xticks=ks, xlabel="classes removed (k)", ylim=LIMITS, yticks=range(0, 101, 20), title=name)
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("test accuracy, % (mean ± std)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    save_figure(figure, path)
