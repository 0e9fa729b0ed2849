"""What `pfm bench serve` found, as pictures."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pfm.evaluation.pictures import LINE, MARKER, new_figure, save_figure, use_plain_log_scale
from pfm_bench.reports.serving_report import ServingReport
from pfm_bench.reports.serving_tables import count_threads

# of a runtime, by the beginning of a target's name: in its first precision, then in others
COLORS = {"torch": ("#b8500c", "#eda15c", "#8a6d3b"), "": ("#1d4f8c", "#4ea3dc", "#0f8a7e", "#7a5fb5")}
MARKERS = "osD^v"


def draw(report: ServingReport, path: Path) -> None:
    """Median latency against batch size, one panel for each number of prompts."""
    _draw(report, path, x="batch_size", panel="num_prompts", titles=("batch size", "active prompts: {}"))


def draw_prompts(report: ServingReport, path: Path) -> None:
    """Median latency against the number of active prompts, one panel for each batch size."""
    _draw(report, path, x="num_prompts", panel="batch_size", titles=("active prompts", "batch {}"))


def color_targets(targets: Iterable[str]) -> dict[str, str]:
    """Warm for torch, cold for the rest, the same in every picture."""
    left = {family: itertools.cycle(colors) for family, colors in COLORS.items()}
    return {target: next(left["torch" if target.startswith("torch") else ""]) for target in targets}


def _draw(report: ServingReport, path: Path, *, x: str, panel: str, titles: tuple[str, str]) -> None:
    """Lines over one field of a case, `x`, a panel for each value of another."""
    cases = [result.case for result in report.cases]
    panels = sorted({getattr(case, panel) for case in cases})
    series = sorted({(case.target, case.threads) for case in cases})
    colors = color_targets(dict.fromkeys(target for target, _ in series))
    thread_counts = sorted({threads for _, threads in series})
    xs = sorted({getattr(case, x) for case in cases})
    is_log = x == "batch_size"
    figure = new_figure(max(5.0, 2.4 * len(panels) + 0.8), 3.9)
    figure.suptitle("latency of one batch (median and its 95 % interval)", weight="bold")
    axes = figure.subplots(1, len(panels), sharey=is_log, squeeze=False)[0]
    for axis, value in zip(axes, panels, strict=True):
        for target, threads in series:
            wanted = (value, target, threads)
            rows = [r for r in report.cases if (getattr(r.case, panel), r.case.target, r.case.threads) == wanted]
            rows.sort(key=lambda result: getattr(result.case, x))
            middle = np.array([row.percentiles.p50_ms for row in rows])
            limits = np.array([row.intervals["p50_ms"] for row in rows])
            # a bootstrap interval holds its median only almost always
            around = np.maximum(0, [middle - limits[:, 0], limits[:, 1] - middle])
            name = target if len(thread_counts) == 1 else f"{target}, {count_threads(threads)}"
            axis.errorbar(
                [getattr(row.case, x) for row in rows], middle, yerr=around, capsize=4, label=name,
                color=colors[target], marker=MARKERS[thread_counts.index(threads) % len(MARKERS)],
                linewidth=LINE, elinewidth=1.5, markersize=MARKER,
            )  # fmt: skip
        if is_log:
            axis.set(xscale="log")
            use_plain_log_scale(axis.yaxis)
            axis.minorticks_off()
        else:
            axis.set_ylim(bottom=0)
        axis.set(xticks=xs, xticklabels=xs, xlabel=titles[0], title=titles[1].format(value))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("milliseconds" + (" (log scale)" if is_log else ""))
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(series), 2 * len(panels)), frameon=False)
    save_figure(figure, path)
