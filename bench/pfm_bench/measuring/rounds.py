"""Timed calls in interleaved rounds -> raw samples; percentiles and ratios are derived from them.

A machine that others share drifts by tens of percent within a minute. So the calls that are to be
compared run in turn, each once a round in a random order, and a ratio is taken round by round.
Beside the time on the clock, the time for which this process had the CPU is kept: what others take away
shows in the first only.
"""

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar

from pfm_bench.measuring.stats import Percentiles, Ratio, paired_ratio, paired_speed, percentiles

Key = TypeVar("Key", bound=Hashable)
T = TypeVar("T")


@dataclass
class Samples(Generic[Key]):
    """Milliseconds of each call, one a round, in the order of the rounds.

    Attributes:
        latency_ms: on the clock.
        warmup_rounds: those before, which are not counted.
        pause_ms: idle time before each call.
        budget_was_spent: there was no time for all rounds.
        cpu_ms: of this process on the CPU, all threads together.
    """

    latency_ms: dict[Key, list[float]]
    warmup_rounds: int
    pause_ms: float
    budget_was_spent: bool = field(default=False)
    cpu_ms: dict[Key, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return min(len(values) for values in self.latency_ms.values())

    def percentiles(self, key: Key) -> Percentiles:
        """p50, p90 and p99 in milliseconds."""
        return percentiles(self.latency_ms[key])

    def ratio(self, key: Key, to: Key) -> dict[str, Ratio]:
        """Time of `key` over that of `to`, on the clock and in CPU time; see `paired_ratio`."""
        return {clock: paired_ratio(times[key], times[to]) for clock, times in self._clocks().items()}

    def speed(self, key: Key, to: Key) -> dict[str, Ratio]:
        """How many times as fast `key` is as `to`, on the clock and in CPU time; see `paired_speed`."""
        return {clock: paired_speed(times[key], times[to]) for clock, times in self._clocks().items()}

    def _clocks(self) -> dict[str, dict[Key, list[float]]]:
        return {clock: times for clock, times in {"wall": self.latency_ms, "cpu": self.cpu_ms}.items() if times}


def measure(
    calls: Mapping[Key, Callable[[], object]],
    *,
    rounds: int,
    warmup_rounds: int = 2,
    budget_s: float = float("inf"),
    min_rounds: int = 5,
    pause_ms: float = 5.0,
    seed: int = 0,
    on_round: Callable[[], object] = lambda: None,
) -> Samples[Key]:
    """Time every call once a round.

    Args:
        rounds: how many at most; fewer, but at least `min_rounds`, once `budget_s` seconds have passed.
        pause_ms: idle time before each call, so that one runtime's spinning threads do not slow the next.
    """
    order = list(calls)
    shuffle = random.Random(seed)
    for _ in range(warmup_rounds):
        for call in calls.values():
            call()
    latency_ms: dict[Key, list[float]] = {key: [] for key in order}
    cpu_ms: dict[Key, list[float]] = {key: [] for key in order}
    samples = Samples(latency_ms, warmup_rounds, pause_ms, cpu_ms=cpu_ms)
    started = time.perf_counter()
    gc_was_on = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what the libraries made is not searched between the rounds
    try:
        for number in range(rounds):
            if number >= min_rounds and time.perf_counter() - started > budget_s:
                samples.budget_was_spent = True
                break
            shuffle.shuffle(order)
            for key in order:
                time.sleep(pause_ms / 1000)
                before, cpu_before = time.perf_counter(), time.process_time()
                calls[key]()
                latency_ms[key].append((time.perf_counter() - before) * 1000)
                cpu_ms[key].append((time.process_time() - cpu_before) * 1000)
            gc.collect()
            on_round()
    finally:
        gc.unfreeze()
        if gc_was_on:
            gc.enable()
    return samples


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Seconds on the clock, and of this process on the CPU."""

    wall_s: float
    cpu_s: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def timed(work: Callable[[], T]) -> tuple[T, Duration]:
    """Do something once, and say how long it took."""
    before, cpu_before = time.perf_counter(), time.process_time()
    result = work()
    return result, Duration(wall_s=time.perf_counter() - before, cpu_s=time.process_time() - cpu_before)
