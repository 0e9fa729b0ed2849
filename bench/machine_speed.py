"""How evenly this machine computes: the same products of matrices on every core at once, again and again.

    python bench/machine_speed.py --seconds 60 --out bench/pfm_bench/results/machine_speed.json

A load test asks for a share of a capacity that was found some seconds before; where the cores are slower for seconds at
a time, whatever runs on them, that share is more than the capacity. Nothing else should run meanwhile.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy is imported

import numpy as np

from pfm.storage import write_compact_json
from pfm_bench.measuring.stats import percentiles
from pfm_bench.reports.header import host_facts

SIZE, PRODUCTS, PAUSE_S = 200, 100, 0.2


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


def main() -> None:
    """Measure every core at once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with multiprocessing.get_context("spawn").Pool(len(cores)) as pool:
        measured = pool.starmap(rounds, [(core, given.seconds) for core in cores])
    times = {
        str(core): percentiles([took for _, took, _ in found]) for core, found in zip(cores, measured, strict=True)
    }
    for core, found in times.items():
        print(f"core {core}: {found.p50_ms:.1f} ms a round, one in a hundred {found.p99_ms:.1f}")
    write_compact_json(given.out, {
        "command": f"python bench/machine_speed.py --seconds {given.seconds:g}",
        "host": host_facts(), "products": PRODUCTS, "size": SIZE,
        "summary": {core: found.to_dict() for core, found in times.items()},
        "rounds": {str(core): found for core, found in zip(cores, measured, strict=True)},
    })  # fmt: skip


if __name__ == "__main__":
    main()
