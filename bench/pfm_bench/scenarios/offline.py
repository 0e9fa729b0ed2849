"""offline: all queries are there; the figure is the throughput at the best batch size."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pfm.storage import Json
from pfm_bench.measuring.stats import Interval, mean_interval
from pfm_bench.reports.markdown import show_interval
from pfm_bench.reports.serving_report import ScenarioResult
from pfm_bench.scenarios.clock import SYSTEM, Call, Clock, back_to_back
from pfm_bench.scenarios.scenario import Served

NAME = "offline"


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """Of one batch size.

    Attributes:
        interval: of the images a second.
        latency_ms: raw, of a batch.
    """

    batch_size: int
    images_per_s: float
    interval: Interval
    latency_ms: list[float]

    def to_dict(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Offline:
    """Of every batch size."""

    batches: tuple[Throughput, ...]

    @property
    def best(self) -> Throughput:
        return max(self.batches, key=lambda entry: entry.images_per_s)

    def to_dict(self) -> Json:
        best = self.best
        return {
            "images_per_s": best.images_per_s,
            "interval": best.interval,
            "batch_size": best.batch_size,
            "batches": [entry.to_dict() for entry in self.batches],
        }

    def describe(self) -> str:
        best = self.best
        return f"{best.images_per_s:.1f} images/s ({show_interval(best.interval, 1)}) at batch {best.batch_size}"


def offline(calls: Mapping[int, Call], *, seconds: float, min_queries: int = 5, clock: Clock = SYSTEM) -> Offline:
    """Images a second, back to back, for each batch size.

    Args:
        calls: by batch size.
        seconds: for all of them together.
    """
    batches = []
    for batch_size, call in calls.items():
        latency_ms = back_to_back(call, seconds / len(calls), at_least=min_queries, clock=clock)
        low_ms, high_ms = mean_interval(latency_ms)
        batches.append(
            Throughput(
                batch_size=batch_size,
                images_per_s=1000 * batch_size / float(np.mean(latency_ms)),
                interval=(1000 * batch_size / high_ms, 1000 * batch_size / low_ms),
                latency_ms=latency_ms,
            )
        )
    return Offline(batches=tuple(batches))


def scenario(served: Served) -> Iterator[ScenarioResult]:
    """Of each target."""
    for plan in served.plans:
        calls = {size: served.call(plan, size) for size in served.batch_sizes}
        figures = offline(calls, seconds=served.seconds)
        yield ScenarioResult(scenario=NAME, target=plan.name, figures=figures, num_prompts=served.num_prompts)
