"""What `pfm bench serve` found, as pictures."""

from pathlib import Path

import numpy as np

from pfm.evaluation.pictures import new_figure, save_figure
from pfm_bench.reports.serving_report import ServingReport
from pfm_bench.reports.serving_tables import count_threads

COLORS = ("#d35400", "#2471a3", "#1e8449", "#8e44ad", "#c0392b", "#7f8c8d", "#b7950b", "#17a589")
MARKERS = "osD^v"


def draw(report: ServingReport, path: Path) -> None:
    """Median latency against batch size, one panel for each number of prompts."""
    _draw(report, path, x="batch_size", panel="num_prompts", titles=("batch size", "{} active prompts"))


def draw_prompts(report: ServingReport, path: Path) -> None:
    """Median latency against the number of active prompts, one panel for each batch size."""
    _draw(report, path, x="num_prompts", panel="batch_size", titles=("active prompts", "batch {}"))


def _draw(report: ServingReport, path: Path, *, x: str, panel: str, titles: tuple[str, str]) -> None:
    """Lines over one field of a case, `x`, a panel for each value of another."""
    cases = [result.case for result in report.cases]
    panels = sorted({getattr(case, panel) for case in cases})
    series = sorted({(case.target, case.threads) for case in cases})
    targets = list(dict.fromkeys(target for target, _ in series))
    thread_counts = sorted({threads for _, threads in series})
    xs = sorted({getattr(case, x) for case in cases})
    is_log = x == "batch_size"
    figure = new_figure(max(6.0, 3.4 * len(panels) + 0.8), 4.2)
    figure.suptitle("latency of one batch (median; whiskers: its 95 % interval)")
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
                [getattr(row.case, x) for row in rows], middle, yerr=around, capsize=3, label=name,
                color=COLORS[targets.index(target) % len(COLORS)],
                marker=MARKERS[thread_counts.index(threads) % len(MARKERS)],
            )  # fmt: skip
        if is_log:
            axis.set(xscale="log", yscale="log")
            axis.minorticks_off()
        else:
            axis.set_ylim(bottom=0)
        axis.set(xticks=xs, xticklabels=xs, xlabel=titles[0], title=titles[1].format(value))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("milliseconds" + (" (log scale)" if is_log else ""))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(panels) + 1, frameon=False
    )
    save_figure(figure, path)
