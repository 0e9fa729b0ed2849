"""What `pfm bench serve` found, as Markdown and in lines."""

from collections.abc import Callable

from pfm_bench.reports.markdown import markdown, show_interval, show_percent
from pfm_bench.reports.serving_report import CaseResult, ServingReport


def show_report(report: ServingReport, *, is_brief: bool = False) -> str:
    """All of it; in brief, without what makes the table wider than a terminal."""
    parts = [table(report, is_brief=is_brief), scenario_table(report), target_lines(report)]
    return "\n\n".join(part for part in parts if part)


def table(report: ServingReport, *, is_brief: bool = False) -> str:
    """The cases; a column that says nothing is left out, and in brief those on arithmetic and CPU time."""
    cases, reference = report.cases, report.header.reference
    columns: dict[str, Callable[[CaseResult], str]] = {}
    if len({result.case.threads for result in cases}) > 1:
        columns["threads"] = lambda result: str(result.case.threads)
    columns |= {
        "batch": lambda result: str(result.case.batch_size),
        "prompts": lambda result: str(result.case.num_prompts),
        "target": lambda result: result.case.target,
        "p50 ms (95 %)": lambda result: (
            f"{result.percentiles.p50_ms:.2f} ({show_interval(result.intervals['p50_ms'], 2)})"
        ),
        "p90 ms": lambda result: f"{result.percentiles.p90_ms:.2f}",
        "p99 ms": lambda result: f"{result.percentiles.p99_ms:.2f}",
        "images/s": lambda result: f"{result.images_per_s:.{1 if result.images_per_s < 100 else 0}f}",
    }
    if not is_brief and any(result.roofline is not None for result in cases):
        columns |= {
            "GFLOP/s": lambda result: "" if result.roofline is None else f"{result.roofline.gflop_per_s:.3g}",
            "of ceiling": lambda result: show_percent(result.roofline and result.roofline.share_of_ceiling),
            "by CPU time": lambda result: show_percent(result.roofline and result.roofline.share_of_ceiling_by_cpu),
        }
    if len({result.case.target for result in cases}) > 1:
        columns[f"latency to {reference} (95 %)"] = lambda result: _ratio(result, "wall")
        if not is_brief:
            columns["CPU time to it (95 %)"] = lambda result: _ratio(result, "cpu")
    return markdown([{title: cell(result) for title, cell in columns.items()} for result in cases])


def _ratio(result: CaseResult, clock: str) -> str:
    ratio = (result.ratio_to_reference or {}).get(clock)
    return "" if ratio is None else ratio.describe()


def scenario_table(report: ServingReport) -> str:
    """The scenarios."""
    return markdown(
        [
            {
                "scenario": entry.scenario,
                "target": entry.target,
                "threads": str(entry.threads),
                "figure": entry.figures.describe(),
            }
            for entry in report.scenarios
        ]
    )


def target_lines(report: ServingReport) -> str:
    """Loading and memory of each target, the ceilings, and what an export cost, in lines."""
    lines = []
    for entry in report.targets:
        memory = "" if entry.peak_memory_mib is None else f", peak {entry.peak_memory_mib:.0f} MiB"
        lines.append(
            f"{entry.name}, {count_threads(entry.threads)}, on {entry.where}: "
            f"loaded in {entry.load_s:.2f} s ({entry.load_cpu_s:.2f} s of CPU time), "
            f"first call {entry.first_call_ms:.1f} ms{memory}"
        )
    for threads, ceilings in report.ceilings.items():
        shown = ", ".join(f"{value:.0f} in {name}" for name, value in ceilings.items())
        lines.append(f"the most that a matrix product reached here, GFLOP/s on {count_threads(threads)}: {shown}")
    for precision, cost in report.exports.items():
        lines.append(
            f"export in {precision}: graph {cost.graph.cpu_s:.1f} s of CPU time "
            f"({cost.graph_bytes / 2**20:.1f} MiB), "
            f"whole bundle with its parity check {cost.bundle.cpu_s:.1f} s"
        )
    return "\n".join(lines)


def count_threads(threads: int) -> str:
    """`1 thread`, `2 threads`."""
    return f"{threads} thread" + ("s" if threads != 1 else "")
