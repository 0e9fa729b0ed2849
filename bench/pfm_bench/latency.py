"""Timed calls in interleaved rounds -> raw samples; percentiles and ratios are derived from them.

A machine that others share drifts by tens of percent within a minute. So the calls that are to be
compared run in turn, each once a round in a random order, and a ratio is taken round by round.
"""

import gc
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Samples(Generic[Key]):
    """Milliseconds of each call, one a round, in the order of the rounds."""

    latency_ms: dict[Key, list[float]]
    warmup_rounds: int
    pause_ms: float
    budget_was_spent: bool = field(default=False)

    @property
    def rounds(self) -> int:
        return min(len(values) for values in self.latency_ms.values())

    def percentiles(self, key: Key) -> dict[str, float]:
        """p50, p90 and p99 in milliseconds."""
        return {f"p{q}_ms": float(np.percentile(self.latency_ms[key], q)) for q in (50, 90, 99)}

    def ratio(self, key: Key, to: Key) -> dict[str, float]:
        """Latency of `key` over that of `to`, paired by round: median and the middle 80 %."""
        pairs = np.array(self.latency_ms[key]) / np.array(self.latency_ms[to])
        low, middle, high = np.percentile(pairs, (10, 50, 90))
        return {"median": float(middle), "p10": float(low), "p90": float(high)}


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
    samples = Samples(latency_ms, warmup_rounds, pause_ms)
    started = time.perf_counter()
    gc_was_on = gc.isenabled()
    gc.disable()
    try:
        for number in range(rounds):
            if number >= min_rounds and time.perf_counter() - started > budget_s:
                samples.budget_was_spent = True
                break
            shuffle.shuffle(order)
            for key in order:
                time.sleep(pause_ms / 1000)
                before = time.perf_counter()
                calls[key]()
                latency_ms[key].append((time.perf_counter() - before) * 1000)
            gc.collect()
            on_round()
    finally:
        if gc_was_on:
            gc.enable()
    return samples
