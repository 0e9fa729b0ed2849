"""Where the time comes from, and calls back to back on it."""

import time
from typing import Protocol

from pfm_bench.targets.plan import Call

MAX_QUERIES = 1000  # more samples say hardly more


class Clock(Protocol):
    """A test has one of its own."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class SystemClock:
    """The machine's."""

    def now(self) -> float:
        return time.perf_counter()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM = SystemClock()


def back_to_back(
    call: Call, seconds: float, *, at_least: int, at_most: int | None = None, clock: Clock = SYSTEM
) -> list[float]:
    """Milliseconds of each call, for about so many seconds; the first, not counted, warms up.

    Args:
        at_most: calls; None is `MAX_QUERIES`.
    """
    at_most = at_most or MAX_QUERIES
    call()
    latency_ms: list[float] = []
    started = before = clock.now()
    while len(latency_ms) < at_most and (len(latency_ms) < at_least or before - started < seconds):
        call()
        after = clock.now()
        latency_ms.append(1000 * (after - before))
        before = after
    return latency_ms
