"""What a queue without any cost of its own would make of the load that `serve_load.py` measured.

    python bench/ideal_queue.py bench/pfm_bench/results/serve_load_vit_mini.json

A pass of n rows takes a + b n milliseconds; both are fitted to the mean passes of the phases of a file (its section
`load`). Requests arrive at random, and a pass takes all that wait, at most 32, as the server does: no rule that answers
in the order of arrival ends sooner. What p99 is then, at a share of the highest rate 32 / (a + 32 b), beside the aim
"three times a request alone, and one batch", with the batch of 32 rows and with the mean one of that load. Nothing is
slower than the passes here, so that what this queue misses no server meets whose passes cost as much.

    python bench/ideal_queue.py FILE --speed MACHINE_SPEED

Passes take longer where a core did, which `machine_speed.py` measured from second to second: what p99 is at the rate
that FILE was measured at where nothing but the speed of the cores is not even. A row that finds 256 waiting is refused.

    python bench/ideal_queue.py FILE --pause 8

Nothing goes on for so many milliseconds at each change of classes that FILE names.

    python bench/ideal_queue.py FILE --within 660

Whom it would answer later than that many milliseconds after its arrival is refused; the rate is that of FILE.
"""

import argparse
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MOST, REQUESTS = 32, 200_000
ROOM = 256  # rows that may wait, as `pfm serve` has it
SHARES = (0.5, 0.6, 0.65, 0.7, 0.8)
Ends = Callable[[float, float], float]  # when a pass ends that begins at a time and computes so long, in milliseconds


@dataclass(frozen=True, kw_only=True)
class Found:
    """Milliseconds, rows of the mean pass, and the share that was refused."""

    p50_ms: float
    p99_ms: float
    rows: float
    refused: float = 0.0

    def describe(self, per_second: float, seconds: float) -> str:
        """For people, of so many requests a second for so long."""
        return (
            f"{seconds:.0f} s at {per_second:.0f} requests/s: p50 {self.p50_ms:.1f}, p99 {self.p99_ms:.1f} ms, "
            f"{self.refused:.2%} refused"
        )


def simulate(a: float, b: float, per_second: float, *, most: int = MOST, seed: int = 0) -> Found:
    """Requests that arrive at random, taken as they come by passes of at most so many rows.

    Args:
        a, b: milliseconds of a pass, and of each of its rows.
    """
    arrivals = np.cumsum(np.random.default_rng(seed).exponential(1000 / per_second, REQUESTS))  # (N,)
    latencies = np.empty(REQUESTS)
    now, first, passes = 0.0, 0, 0
    while first < REQUESTS:
        now = max(now, arrivals[first])
        last = min(first + most, int(np.searchsorted(arrivals, now, side="right")))
        now += a + b * (last - first)
        latencies[first:last] = now - arrivals[first:last]
        first, passes = last, passes + 1
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    return Found(p50_ms=p50, p99_ms=p99, rows=REQUESTS / passes)


def simulate_uneven(
    a: float, b: float, per_second: float, ends: Ends, seconds: float, *, within: float = float("inf"), most: int = MOST
) -> Found:
    """The same where a pass does not always take as long; for some seconds.

    Args:
        within: milliseconds from the arrival to the end of the pass; whom that would be too late for is refused.
    """
    count = round(per_second * seconds)
    arrivals: list[float] = np.cumsum(np.random.default_rng(0).exponential(1000 / per_second, count)).tolist()
    waiting, latencies, now, first, passes = deque[float](), list[float](), 0.0, 0, 0
    while first < count or waiting:
        if not waiting and arrivals[first] > now:
            now = arrivals[first]
        while first < count and arrivals[first] <= now:
            if len(waiting) < ROOM:
                waiting.append(arrivals[first])
            first += 1
        while waiting and ends(now, a + b * min(most, len(waiting))) - waiting[0] > within:
            waiting.popleft()
        if taken := [waiting.popleft() for _ in range(min(most, len(waiting)))]:
            now = ends(now, a + b * len(taken))
            latencies += [now - each for each in taken]
            passes += 1
    p50, p99 = np.quantile(latencies, (0.5, 0.99)).tolist()
    return Found(p50_ms=p50, p99_ms=p99, rows=len(latencies) / passes, refused=1 - len(latencies) / count)


def even(now: float, work: float) -> float:
    """A pass takes as long as it computes."""
    return now + work


def paused(changes: Sequence[float], pause: float) -> Ends:
    """Nothing goes on for some milliseconds at each change.

    Args:
        changes: their seconds, in order.
    """

    def ends(now: float, work: float) -> float:
        for begun in (1000 * each for each in changes):
            if begun < now + work and now < begun + pause:
                now, work = (begun + pause, work) if begun <= now else (now, work + pause)
        return now + work

    return ends


def say_paused(changes: Sequence[float], pause: float, a: float, b: float, per_second: float, seconds: float) -> None:
    """Print a line with pauses, and one without."""
    for name, rule in ((f"pauses of {pause:g} ms at {len(changes)} changes", paused(changes, pause)), ("even", even)):
        queue = simulate_uneven(a, b, per_second, rule, seconds)
        print(f"{name}, {queue.describe(per_second, seconds)}")


def say_uneven(speed: Path, a: float, b: float, per_second: float) -> None:
    """Print a line for each core that was measured, and one for as long a time of even speed."""
    for core, rounds in json.loads(speed.read_text())["rounds"].items():
        begun, _, computed = np.array(rounds).T  # (N,) seconds, then milliseconds of processor time
        times = computed / computed.mean()
        low, high = np.quantile(times, (0.1, 0.9))

        def ends(now: float, work: float, begun: np.ndarray = begun, times: np.ndarray = times) -> float:
            return now + work * float(times[max(0, int(np.searchsorted(begun, now / 1000, side="right")) - 1)])

        for name, rule in ((f"core {core}, {low:.2f} to {high:.2f} of its mean", ends), ("even", even)):
            queue = simulate_uneven(a, b, per_second, rule, begun[-1])
            print(f"{name}, {queue.describe(per_second, begun[-1])}")


def fit(passes: list[dict[str, float]]) -> tuple[float, float]:
    """a and b of the mean passes of several phases, by least squares of relative errors; neither is negative."""
    rows, ms = (np.array([each[name] for each in passes]) for name in ("rows", "ms"))
    b, a = np.polyfit(rows, ms, 1, w=1 / ms)
    return (float(a), float(b)) if a >= 0 else (0.0, float(np.mean(ms / rows)))


def main() -> None:
    """Print a line for each share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path, help="of serve_load.py")
    parser.add_argument("--section", default="load")
    parser.add_argument("--speed", type=Path, help="of machine_speed.py")
    parser.add_argument("--pause", type=float, default=0.0, help="milliseconds at each change of classes")
    parser.add_argument("--within", type=float, help="milliseconds in which what is not refused is answered")
    given = parser.parse_args()
    found = json.loads(given.file.read_text())["sections"][given.section]
    a, b = fit(found["mean_passes"])
    rate = found["phases"][-1]["asked_per_second"]  # of the load
    if given.speed is not None:
        say_uneven(given.speed, a, b, rate)
        return
    if given.within is not None:
        seconds, most = REQUESTS / rate, found["largest_pass"]["rows"]
        queue = simulate_uneven(a, b, rate, even, seconds, within=given.within, most=most)
        print(f"answers within {given.within:g} ms, {queue.describe(rate, seconds)}")
        return
    if given.pause:
        changes, seconds = [change["at"] for change in found["changes"]], found["phases"][-1]["arriving_seconds"]
        say_paused(changes, given.pause, a, b, rate, seconds)
        return
    alone, most = found["p50_alone_ms"], 1000 * MOST / (a + MOST * b)
    print(f"passes of {a:.2f} + {b:.3f} n ms; a request alone {alone:.2f} ms; at most {most:.1f} requests/s")
    capacity = found["capacity_per_second"]  # None of a file whose rate was given
    carried = "" if capacity is None else f"{capacity:.1f} requests/s carried, "
    print(f"measured: {carried}p99 {found['p99_ms']:.1f} ms at {rate:.1f}")
    for share in SHARES:
        queue = simulate(a, b, share * most)
        around = alone - a - b  # what a request costs around its pass, that is in no queue here
        whole, mean = 3 * alone + a + MOST * b, 3 * alone + a + b * queue.rows
        print(
            f"{share:.0%}: p50 {queue.p50_ms + around:.1f}, p99 {queue.p99_ms + around:.1f} ms; aim with {MOST} rows "
            f"{whole:.1f}, with the mean {queue.rows:.1f} rows {mean:.1f}"
        )


if __name__ == "__main__":
    main()
