"""The latencies and scenarios of `pfm bench serve`: as JSON, as Markdown, as pictures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfm.evaluation.pictures import new_figure, save_figure
from pfm_bench.latency import Samples
from pfm_bench.reports.stats import percentile_intervals
from pfm_bench.reports.variants import header
from pfm_bench.targets.roofline import roofline

COLORS = ("#d35400", "#2471a3", "#1e8449", "#8e44ad", "#c0392b", "#7f8c8d", "#b7950b", "#17a589")
MARKERS = "osD^v"


@dataclass(frozen=True, order=True)
class Case:
    """One timed call."""

    batch_size: int
    num_prompts: int
    target: str
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a case computes, where that is known.

    Attributes:
        gflop_per_image: 10⁹ floating-point operations.
        ceiling: of its device and precision, 10⁹ operations a second.
        is_on_cpu: so that CPU time says something.
    """

    gflop_per_image: float
    ceiling: float | None
    is_on_cpu: bool = True


def to_json(
    runs: Sequence[Samples[Case]],
    *,
    settings: dict[str, Any],
    reference: str,
    work: Callable[[Case], Work] | None = None,
) -> dict[str, Any]:
    """Everything: host, settings, raw samples, and what is derived from them.

    Args:
        runs: interleaved runs, each of its own cases.
        reference: the target to which ratios are taken, paired by round.
        work: adds rates and shares of the ceiling.
    """
    cases = [
        _entry(samples, case, reference, None if work is None else work(case))
        for samples in runs
        for case in sorted(samples.latency_ms)
    ]
    return {**header({**settings, "reference": reference}, *runs), "cases": cases}


def _entry(samples: Samples[Case], case: Case, reference: str, work: Work | None) -> dict[str, Any]:
    latency_ms, cpu_ms = samples.latency_ms[case], samples.cpu_ms.get(case)
    figures = samples.percentiles(case)
    entry: dict[str, Any] = {
        "target": case.target,
        "threads": case.threads,
        "batch_size": case.batch_size,
        "num_prompts": case.num_prompts,
        **figures,
        "intervals": percentile_intervals(latency_ms),
        "images_per_s": 1000 * case.batch_size / figures["p50_ms"],
    }
    cpu_p50_ms = float(np.median(cpu_ms)) if cpu_ms else None
    if cpu_p50_ms is not None:
        entry["cpu_p50_ms"] = cpu_p50_ms
    if work is not None:
        gflop = work.gflop_per_image * case.batch_size
        used_ms = cpu_p50_ms if work.is_on_cpu else None
        entry["gflop_per_image"] = work.gflop_per_image
        entry |= roofline(gflop, figures["p50_ms"], work.ceiling, cpu_ms=used_ms, threads=case.threads)
    other = Case(case.batch_size, case.num_prompts, reference, case.threads)
    if other in samples.latency_ms:
        entry["ratio_to_reference"] = samples.ratio(case, other)
    return {**entry, "latency_ms": latency_ms, **({"cpu_ms": cpu_ms} if cpu_ms else {})}


# --- Markdown -------------------------------------------------------------------------------------


def table(document: dict[str, Any]) -> str:
    """A Markdown table of the cases; a column that says nothing is left out."""
    cases = document["cases"]
    reference = document["settings"]["reference"]
    columns: dict[str, Callable[[dict[str, Any]], str]] = {}
    if len({case["threads"] for case in cases}) > 1:
        columns["threads"] = lambda case: str(case["threads"])
    columns |= {
        "batch": lambda case: str(case["batch_size"]),
        "prompts": lambda case: str(case["num_prompts"]),
        "target": lambda case: case["target"],
        "p50 ms (95 %)": lambda case: f"{case['p50_ms']:.2f} ({_range(case['intervals']['p50_ms'], '.2f')})",
        "p90 ms": lambda case: f"{case['p90_ms']:.2f}",
        "p99 ms": lambda case: f"{case['p99_ms']:.2f}",
        "images/s": lambda case: f"{case['images_per_s']:.{1 if case['images_per_s'] < 100 else 0}f}",
    }
    if any("gflop_per_s" in case for case in cases):
        columns["GFLOP/s"] = lambda case: f"{case['gflop_per_s']:.3g}"
        columns["of ceiling"] = lambda case: _percent(case["share_of_ceiling"])
        columns["by CPU time"] = lambda case: _percent(case["share_of_ceiling_by_cpu"])
    if len({case["target"] for case in cases}) > 1:
        columns[f"latency to {reference} (95 %)"] = lambda case: _ratio(case, "wall")
        columns["CPU time to it (95 %)"] = lambda case: _ratio(case, "cpu")
    return markdown([{title: cell(case) for title, cell in columns.items()} for case in cases])


def _ratio(case: dict[str, Any], clock: str) -> str:
    return show_ratio(case.get("ratio_to_reference", {}).get(clock))


def show_ratio(ratio: Mapping[str, float] | None) -> str:
    """`×0.81 (0.79–0.84)`."""
    return "" if ratio is None else f"×{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _range(interval: Sequence[float], form: str) -> str:
    return "–".join(format(limit, form) for limit in interval)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table; cells that are numbers stand to the right."""
    if not rows:
        return ""
    titles = list(rows[0])
    text = {title for title in titles if any(row[title][:1].isalpha() for row in rows)}
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join("---" if t in text else "---:" for t in titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row[title] for title in titles) + " |" for row in rows)])


def scenario_table(document: dict[str, Any]) -> str:
    """A Markdown table of the scenarios."""
    return markdown(
        [
            {
                "scenario": entry["scenario"],
                "target": entry["target"],
                "threads": str(entry["threads"]),
                "figure": _FIGURES[entry["scenario"]](entry),
            }
            for entry in document["scenarios"]
        ]
    )


_FIGURES: dict[str, Callable[[dict[str, Any]], str]] = {
    "single_stream": lambda e: (
        f"p90 {e['p90_ms']:.2f} ms ({_range(e['intervals']['p90_ms'], '.2f')}), {e['queries']} queries"
    ),
    "offline": lambda e: (
        f"{e['images_per_s']:.1f} images/s ({_range(e['interval'], '.1f')}) at batch {e['batch_size']}"
    ),
    "server": lambda e: (
        f"{e['queries_per_s']:.2f} queries/s with p99 within {e['bound_ms']:.1f} ms "
        f"({e['queries_per_s'] / e['capacity_per_s']:.0%} of {e['capacity_per_s']:.2f}/s back to back)"
    ),
    "time_to_forget": lambda e: (
        f"p50 {e['p50_ms']:.1f} ms, p99 {e['p99_ms']:.1f} ms "
        f"(erase {e['erase_p50_ms']:.1f}, a prediction {e['predict_p50_ms']:.1f})"
    ),
}


def target_lines(document: dict[str, Any]) -> str:
    """Loading and memory of each target, the ceilings, and what an export cost, in lines."""
    lines = []
    for entry in document["targets"]:
        memory = "" if entry["peak_memory_mib"] is None else f", peak {entry['peak_memory_mib']:.0f} MiB"
        lines.append(
            f"{entry['name']}, {_count(entry['threads'])}, on {entry['where']}: "
            f"loaded in {entry['load_s']:.2f} s ({entry['load_cpu_s']:.2f} s of CPU time), "
            f"first call {entry['first_call_ms']:.1f} ms{memory}"
        )
    for threads, ceilings in document["settings"]["matmul_ceiling_gflop_per_s"].items():
        shown = ", ".join(f"{value:.0f} in {name}" for name, value in ceilings.items())
        lines.append(f"the most that a matrix product reached here, GFLOP/s on {_count(int(threads))}: {shown}")
    for precision, made in document.get("export", {}).items():
        lines.append(
            f"export in {precision}: graph {made['graph']['cpu_s']:.1f} s of CPU time "
            f"({made['graph_bytes'] / 2**20:.1f} MiB), "
            f"whole bundle with its parity check {made['bundle']['cpu_s']:.1f} s"
        )
    return "\n".join(lines)


def _count(threads: int) -> str:
    return f"{threads} thread" + ("s" if threads != 1 else "")


# --- pictures -------------------------------------------------------------------------------------


def draw(document: dict[str, Any], path: Path) -> None:
    """Median latency against batch size, one panel for each number of prompts."""
    _draw(document, path, x="batch_size", panel="num_prompts", titles=("batch size", "{} active prompts"))


def draw_prompts(document: dict[str, Any], path: Path) -> None:
    """Median latency against the number of active prompts, one panel for each batch size."""
    _draw(document, path, x="num_prompts", panel="batch_size", titles=("active prompts", "batch {}"))


def _draw(document: dict[str, Any], path: Path, *, x: str, panel: str, titles: tuple[str, str]) -> None:
    cases = document["cases"]
    panels = sorted({case[panel] for case in cases})
    series = sorted({(case["target"], case["threads"]) for case in cases})
    targets = list(dict.fromkeys(target for target, _ in series))
    thread_counts = sorted({threads for _, threads in series})
    figure = new_figure(max(6.0, 3.4 * len(panels) + 0.8), 4.2)
    figure.suptitle("latency of one batch (median; whiskers: its 95 % interval)")
    axes = figure.subplots(1, len(panels), sharey=x == "batch_size", squeeze=False)[0]
    for axis, value in zip(axes, panels, strict=True):
        for target, threads in series:
            rows = [c for c in cases if (c[panel], c["target"], c["threads"]) == (value, target, threads)]
            rows.sort(key=lambda case: case[x])
            middle = np.array([row["p50_ms"] for row in rows])
            limits = np.array([row["intervals"]["p50_ms"] for row in rows])
            # a bootstrap interval holds its median only almost always
            around = np.maximum(0, [middle - limits[:, 0], limits[:, 1] - middle])
            name = target if len(thread_counts) == 1 else f"{target}, {_count(threads)}"
            axis.errorbar(
                [row[x] for row in rows], middle, yerr=around, capsize=3, label=name,
                color=COLORS[targets.index(target) % len(COLORS)],
                marker=MARKERS[thread_counts.index(threads) % len(MARKERS)],
            )  # fmt: skip
        xs = sorted({case[x] for case in cases})
        if x == "batch_size":
            axis.set(xscale="log", yscale="log")
            axis.minorticks_off()
        else:
            axis.set_ylim(bottom=0)
        axis.set(xticks=xs, xticklabels=xs, xlabel=titles[0], title=titles[1].format(value))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("milliseconds" + (" (log scale)" if x == "batch_size" else ""))
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(panels) + 1, frameon=False
    )
    save_figure(figure, path)
