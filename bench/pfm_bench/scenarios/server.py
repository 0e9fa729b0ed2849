"""server: queries arrive as a Poisson process; the figure is the highest rate at which 99 % of them meet a bound.

Their waiting is included.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from pfm.storage import Json
from pfm_bench.measuring.stats import Percentiles, percentiles
from pfm_bench.reports.serving_report import ScenarioResult
from pfm_bench.scenarios.clock import MAX_QUERIES, SYSTEM, Call, Clock, back_to_back
from pfm_bench.scenarios.scenario import Served

NAME = "server"
LATE_SHARE = 0.01  # of the queries may be late: the bound is on the p99
BISECTIONS = 7  # the rate is found to 1/128 of the capacity
MIN_QUERIES = 100  # of one rate; one in a hundred may be late


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A rate, in queries a second, and how it went.

    Attributes:
        is_within: few enough were late.
        answered: before it gave up.
    """

    rate: float
    is_within: bool
    late: int
    answered: int

    def to_dict(self) -> Json:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Server:
    """The rate that was found, in queries a second; 0 where the bound is shorter than the work.

    Attributes:
        capacity_per_s: of calls back to back.
        queries: of each rate.
        percentiles: at the rate that was found; None where it is 0.
        latency_ms: raw, at that rate.
    """

    queries_per_s: float
    bound_ms: float
    capacity_per_s: float
    queries: int
    arrivals_seed: int
    percentiles: Percentiles | None
    tried: tuple[Tried, ...]
    latency_ms: list[float]

    def to_dict(self) -> Json:
        return {
            "queries_per_s": self.queries_per_s,
            "bound_ms": self.bound_ms,
            "capacity_per_s": self.capacity_per_s,
            "queries": self.queries,
            "arrivals_seed": self.arrivals_seed,
            **({} if self.percentiles is None else self.percentiles.to_dict()),
            "tried": [entry.to_dict() for entry in self.tried],
            "latency_ms": self.latency_ms,
        }

    def describe(self) -> str:
        return (
            f"{self.queries_per_s:.2f} queries/s with p99 within {self.bound_ms:.1f} ms "
            f"({self.queries_per_s / self.capacity_per_s:.0%} of {self.capacity_per_s:.2f}/s back to back)"
        )


def poisson_arrivals(count: int, *, rate: float, seed: int = 0) -> np.ndarray:
    """Arrival times in seconds (count,); the same seed gives the same pattern at every rate."""
    return np.cumsum(np.random.default_rng(seed).exponential(size=count)) / rate


def answer_arrivals(
    call: Call, arrivals_s: np.ndarray, *, bound_ms: float, clock: Clock = SYSTEM
) -> tuple[list[float], int]:
    """Answer queries in the order in which they arrive, one at a time; latencies in ms, and how many were late.

    The arrival times are known beforehand, so the worker needs no thread that sends to it: when it
    is free it takes the next query that has arrived, or waits for one. A latency runs from the moment
    of arrival, not from that at which the worker got round to it. It gives up when more queries were
    late than a p99 within the bound allows.
    """
    allowed = int(LATE_SHARE * len(arrivals_s))
    latency_ms: list[float] = []
    late = 0
    started = clock.now()
    for arrival_s in arrivals_s.tolist():
        wait_s = started + arrival_s - clock.now()
        if wait_s > 0:
            clock.sleep(wait_s)
        call()
        latency_ms.append(1000 * (clock.now() - started - arrival_s))
        late += latency_ms[-1] > bound_ms
        if late > allowed:
            break
    return latency_ms, late


def server(
    call: Call,
    *,
    bound_ms: float,
    seconds: float,
    seed: int = 0,
    max_queries: int = MAX_QUERIES,
    clock: Clock = SYSTEM,
) -> Server:
    """The highest Poisson rate at which 99 % of the queries are answered within the bound, by bisection.

    One worker answers one image at a time. It is looked for below the capacity, which is one over the
    fastest of a few calls.

    Args:
        seconds: for the whole search, about; but each rate gets at least 100 queries.
        seed: of the arrivals.
        max_queries: of one rate.
    """
    service_ms = back_to_back(call, seconds / 10, at_least=5, at_most=50, clock=clock)
    capacity = 1000 / min(service_ms)
    queries = int(np.clip(seconds / BISECTIONS * capacity, MIN_QUERIES, max_queries))
    low, high = 0.0, capacity
    tried: list[Tried] = []
    best: list[float] = []
    if float(np.median(service_ms)) <= bound_ms:
        for _ in range(BISECTIONS):
            rate = (low + high) / 2
            arrivals_s = poisson_arrivals(queries, rate=rate, seed=seed)
            latency_ms, late = answer_arrivals(call, arrivals_s, bound_ms=bound_ms, clock=clock)
            is_within = late <= int(LATE_SHARE * queries)
            tried.append(Tried(rate=rate, is_within=is_within, late=late, answered=len(latency_ms)))
            if is_within:
                low, best = rate, latency_ms
            else:
                high = rate
    return Server(
        queries_per_s=low,
        bound_ms=bound_ms,
        capacity_per_s=capacity,
        queries=queries,
        arrivals_seed=seed,
        percentiles=percentiles(best) if best else None,
        tried=tuple(tried),
        latency_ms=best,
    )


def scenario(served: Served) -> Iterator[ScenarioResult]:
    """Of each target, at the smallest batch size."""
    smallest = served.batch_sizes[0]
    for plan in served.plans:
        figures = server(
            served.call(plan, smallest), bound_ms=served.bound_ms, seconds=served.seconds, seed=served.seed
        )
        yield ScenarioResult(
            scenario=NAME, target=plan.name, figures=figures, num_prompts=served.num_prompts, batch_size=smallest
        )
