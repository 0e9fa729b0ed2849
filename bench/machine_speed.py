"""How evenly this machine computes: the same products of matrices on every core at once, again and again.

    python bench/machine_speed.py --seconds 60 --out bench/pfm_bench/results/machine_speed.json

A load test asks for a share of a capacity that was found some seconds before; where the cores are slower for seconds at
a time, whatever runs on them, that share is more than the capacity. Nothing else should run meanwhile.

Before that each CPU computes alone, then each pair of them at once. Two CPUs that are threads of one physical core get
about half of what they get alone, whatever the system says of them; others get all of it.
"""

import argparse
import itertools
import multiprocessing
import os
import time
from multiprocessing.pool import Pool
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np

from pfm.device import available_cores
from pfm.storage import write_compact_json
from pfm_bench.measuring.pinning import siblings, stolen_ms
from pfm_bench.measuring.stats import percentiles
from pfm_bench.reports.header import host_facts

SIZE, PRODUCTS, PAUSE_S = 200, 100, 0.2
PAIR_S, SHORT = 0.25, 10  # seconds that a pair computes; products of a round of it


def rounds(core: int, seconds: float) -> list[tuple[float, float, float]]:
    """Begin in seconds, wall and processor milliseconds of each round, on one core."""
    os.sched_setaffinity(0, {core})
    matrix = np.random.default_rng(0).random((SIZE, SIZE))
    begun, found = time.perf_counter(), list[tuple[float, float, float]]()
    while time.perf_counter() - begun < seconds:
        wall, computed = time.perf_counter(), time.process_time()
        for _ in range(PRODUCTS):
            matrix @ matrix  # pyright: ignore[reportUnusedExpression]
        took, used = time.perf_counter() - wall, time.process_time() - computed
        found.append((round(wall - begun, 2), round(1000 * took, 1), round(1000 * used, 1)))
        time.sleep(PAUSE_S)
    return found


def least_ms(core: int, seconds: float) -> float:
    """Processor milliseconds of the fastest tenth of short rounds, on one core."""
    os.sched_setaffinity(0, {core})
    matrix = np.random.default_rng(0).random((SIZE, SIZE))
    found, until = list[float](), time.perf_counter() + seconds
    while time.perf_counter() < until:
        begun = time.process_time()
        for _ in range(SHORT):
            matrix @ matrix  # pyright: ignore[reportUnusedExpression]
        found.append(1000 * (time.process_time() - begun))
    return float(np.quantile(found, 0.1))


def pairs(pool: Pool, cores: list[int]) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of a round of each core alone, and of each pair, how many times the mean of its two.

    The fastest rounds count, so that other work on the cores shows little.
    """
    pool.starmap(least_ms, [(core, PAIR_S) for core in cores], chunksize=1)  # warms up
    alone = {core: pool.apply(least_ms, (core, PAIR_S)) for core in cores}
    ratios: dict[str, float] = {}
    for one, two in itertools.combinations(cores, 2):
        together = pool.starmap(least_ms, [(one, PAIR_S), (two, PAIR_S)], chunksize=1)
        ratios[f"{one},{two}"] = round(sum(together) / (alone[one] + alone[two]), 3)
    return {str(core): round(value, 3) for core, value in alone.items()}, ratios


def main() -> None:
    """Measure every core at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cores = available_cores()
    with multiprocessing.get_context("fork").Pool(len(cores)) as pool:
        alone, ratios = pairs(pool, cores)
        worst = max(ratios, key=ratios.__getitem__, default="")
        print(f"of pairs {worst} slow each other down most: x{ratios.get(worst, 1.0):.2f}", flush=True)
        stolen = stolen_ms(cores)
        measured = pool.starmap(rounds, [(core, given.seconds) for core in cores], chunksize=1)
        stolen = stolen_ms(cores) - stolen
    times = {
        str(core): percentiles([took for _, took, _ in found]) for core, found in zip(cores, measured, strict=True)
    }
    for core, found in times.items():
        print(f"core {core}: {found.p50_ms:.1f} ms a round, one in a hundred {found.p99_ms:.1f}")
    write_compact_json(given.out, {
        "command": f"python bench/machine_speed.py --seconds {given.seconds:g}",
        "host": {**host_facts(), "thread_siblings": siblings(cores)},
        "short_round_alone_ms": alone, "short_round_of_a_pair_times_alone": ratios, "stolen_ms": stolen,
        "products": PRODUCTS, "size": SIZE,
        "summary": {core: found.to_dict() for core, found in times.items()},
        "rounds": {str(core): found for core, found in zip(cores, measured, strict=True)},
    })  # fmt: skip


if __name__ == "__main__":
    main()
