"""single_stream: the next query is sent when the last is answered; the figure is the p90 latency."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pfm.storage import Json
from pfm_bench.measuring.stats import Interval, Percentiles, percentile_intervals, percentiles
from pfm_bench.reports.markdown import show_interval
from pfm_bench.reports.serving_report import ScenarioResult
from pfm_bench.scenarios.clock import SYSTEM, Call, Clock, back_to_back
from pfm_bench.scenarios.scenario import Served

NAME = "single_stream"


@dataclass(frozen=True, kw_only=True)
class SingleStream:
    """Latencies of queries one after another.

    Attributes:
        intervals: of the percentiles, by their names; milliseconds.
        latency_ms: raw.
    """

    percentiles: Percentiles
    intervals: Mapping[str, Interval]
    latency_ms: list[float]

    @property
    def queries(self) -> int:
        return len(self.latency_ms)

    def to_dict(self) -> Json:
        return {
            **self.percentiles.to_dict(),
            "intervals": self.intervals,
            "queries": self.queries,
            "latency_ms": self.latency_ms,
        }

    def describe(self) -> str:
        around = show_interval(self.intervals["p90_ms"], 2)
        return f"p90 {self.percentiles.p90_ms:.2f} ms ({around}), {self.queries} queries"


def single_stream(call: Call, *, seconds: float, min_queries: int = 10, clock: Clock = SYSTEM) -> SingleStream:
    """One query after another, for a time."""
    latency_ms = back_to_back(call, seconds, at_least=min_queries, clock=clock)
    return SingleStream(
        percentiles=percentiles(latency_ms), intervals=percentile_intervals(latency_ms), latency_ms=latency_ms
    )


def scenario(served: Served) -> Iterator[ScenarioResult]:
    """Of each target, at the smallest batch size."""
    smallest = served.batch_sizes[0]
    for plan in served.plans:
        figures = single_stream(served.call(plan, smallest), seconds=served.seconds)
        yield ScenarioResult(
            scenario=NAME, target=plan.name, figures=figures, num_prompts=served.num_prompts, batch_size=smallest
        )
