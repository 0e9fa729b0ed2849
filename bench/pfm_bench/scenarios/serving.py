"""How a deployment feels: MLPerf's scenarios in small, and the time to forget.

    single_stream   the next query is sent when the last is answered; the figure is the p90 latency
    offline         all queries are there; the figure is the throughput at the best batch size
    server          queries arrive as a Poisson process; the figure is the highest rate at which no
                    more than 1 % of them take longer than a bound, waiting included
    time_to_forget  from the call of `erase` to the first answer without the class

Scenarios run one target after another, so a machine that others load weighs on them more than on
the interleaved latencies. The rules of MLPerf Inference on run lengths and query counts are not followed.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pfm.errors import ConfigError
from pfm_bench.reports.stats import mean_interval, percentile_intervals, percentiles
from pfm_bench.targets.plans import random_inputs
from pfm_export.serving.session import PromptSession

NAMES = ("single_stream", "offline", "server", "time_to_forget")
LATE_SHARE = 0.01  # of the queries may be late: the bound is on the p99
BISECTIONS = 7  # the rate is found to 1/128 of the capacity
MIN_QUERIES, MAX_QUERIES = 100, 1000  # of one rate; one in a hundred may be late

Call = Callable[[], object]


class Clock(Protocol):
    """Where the time comes from; a test has one of its own."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM = SystemClock()


def single_stream(
    call: Call, *, seconds: float, min_queries: int = 10, max_queries: int = MAX_QUERIES, clock: Clock = SYSTEM
) -> dict[str, Any]:
    """One query after another, for a time."""
    latency_ms = _back_to_back(call, seconds, min_queries, max_queries, clock)
    return {
        **percentiles(latency_ms),
        "intervals": percentile_intervals(latency_ms),
        "queries": len(latency_ms),
        "latency_ms": latency_ms,
    }


def offline(
    calls: Mapping[int, Call], *, seconds: float, min_queries: int = 5, clock: Clock = SYSTEM
) -> dict[str, Any]:
    """Images a second, back to back, for each batch size; and the best of them.

    Args:
        calls: by batch size.
        seconds: for all of them together.
    """
    batches = []
    for batch_size, call in calls.items():
        latency_ms = _back_to_back(call, seconds / len(calls), min_queries, MAX_QUERIES, clock)
        low_ms, high_ms = mean_interval(latency_ms)
        batches.append(
            {
                "batch_size": batch_size,
                "images_per_s": 1000 * batch_size / float(np.mean(latency_ms)),
                "interval": [1000 * batch_size / high_ms, 1000 * batch_size / low_ms],
                "latency_ms": latency_ms,
            }
        )
    best = max(batches, key=lambda entry: entry["images_per_s"])
    return {**{key: best[key] for key in ("images_per_s", "interval", "batch_size")}, "batches": batches}


def _back_to_back(call: Call, seconds: float, at_least: int, at_most: int, clock: Clock) -> list[float]:
    """Milliseconds of each call; the first, not counted, warms up."""
    call()
    latency_ms: list[float] = []
    started = before = clock.now()
    while len(latency_ms) < at_most and (len(latency_ms) < at_least or before - started < seconds):
        call()
        after = clock.now()
        latency_ms.append(1000 * (after - before))
        before = after
    return latency_ms


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
) -> dict[str, Any]:
    """The highest Poisson rate at which 99 % of the queries are answered within the bound, by bisection.

    One worker answers one image at a time. It is looked for below the capacity, which is one over the
    fastest of a few calls. 0 where the bound is shorter than the work.

    Args:
        seconds: for the whole search, about; but each rate gets at least 100 queries.
        max_queries: of one rate.
    """
    service_ms = _back_to_back(call, seconds / 10, 5, 50, clock)
    capacity = 1000 / min(service_ms)
    queries = int(np.clip(seconds / BISECTIONS * capacity, MIN_QUERIES, max_queries))
    low, high = 0.0, capacity
    tried: list[dict[str, Any]] = []
    best: list[float] = []
    if float(np.median(service_ms)) <= bound_ms:
        for _ in range(BISECTIONS):
            rate = (low + high) / 2
            arrivals_s = poisson_arrivals(queries, rate=rate, seed=seed)
            latency_ms, late = answer_arrivals(call, arrivals_s, bound_ms=bound_ms, clock=clock)
            is_within = late <= int(LATE_SHARE * queries)
            tried.append({"rate": rate, "is_within": is_within, "late": late, "answered": len(latency_ms)})
            if is_within:
                low, best = rate, latency_ms
            else:
                high = rate
    return {
        "queries_per_s": low,
        "bound_ms": bound_ms,
        "capacity_per_s": capacity,
        "queries": queries,
        "arrivals_seed": seed,
        **(percentiles(best) if best else {}),
        "tried": tried,
        "latency_ms": best,
    }


def erase_and_answer(
    session: PromptSession, names: Sequence[str], inputs: np.ndarray, *, clock: Clock = SYSTEM
) -> tuple[float, float]:
    """Milliseconds from the call of `erase` to its return, and to the first answer, which cannot be the classes."""
    called = clock.now()
    session.erase(names, reason="bench")
    erased = clock.now()
    answer = session.predict(inputs)
    answered = clock.now()
    assert not set(names) & set(answer.classes), "the class is still answered"
    return 1000 * (erased - called), 1000 * (answered - called)


def time_to_forget(
    folder: Path,
    workplace: Path,
    *,
    device: str = "cpu",
    threads: int = 1,
    repeats: int = 20,
    clock: Clock = SYSTEM,
) -> dict[str, Any]:
    """From the call of `erase` to the first answer that cannot be the class: on copies of a bundle, which stays whole.

    A copy gives up one class after another until one is left; then the next copy is made.

    Args:
        workplace: a folder that takes a copy at a time. How long an erasure takes depends on its disk.

    Raises:
        ConfigError: the bundle has one class only.
    """
    forget_ms: list[float] = []
    erase_ms: list[float] = []
    predict_ms: list[float] = []
    while len(forget_ms) < repeats:
        with tempfile.TemporaryDirectory(dir=workplace, prefix=".bundle.") as temporary:
            copy = Path(shutil.copytree(folder, Path(temporary) / "bundle"))
            session = PromptSession(copy, device=device, threads=threads)
            names = session.classes.names
            if len(names) < 2:
                raise ConfigError(f"{folder} has one class only; time_to_forget needs one to erase and one to keep")
            inputs = random_inputs(session.input, 1)
            session.predict(inputs)
            for name in names[: min(len(names) - 1, repeats - len(forget_ms))]:
                start = clock.now()
                session.predict(inputs)
                predict_ms.append(1000 * (clock.now() - start))
                erased_ms, answered_ms = erase_and_answer(session, [name], inputs, clock=clock)
                erase_ms.append(erased_ms)
                forget_ms.append(answered_ms)
    return {
        **percentiles(forget_ms),
        "intervals": percentile_intervals(forget_ms),
        "erase_p50_ms": float(np.median(erase_ms)),
        "predict_p50_ms": float(np.median(predict_ms)),
        "latency_ms": forget_ms,
        "erase_ms": erase_ms,
        "predict_ms": predict_ms,
    }
