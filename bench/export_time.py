"""CPU time from a ViT-B/16 model in memory to the bytes of its float32 graph, each time in a process of its own.

python bench/export_time.py --rounds 5 --out bench/pfm_bench/results/export_time.json
"""

import argparse
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pfm.storage import write_json
from pfm_bench.reports.variants import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs

SHAPE = "scratch:vit_base_patch16_224"


def measure() -> dict[str, float]:
    """Seconds on the clock and of CPU time of one export, what it imports with it."""
    checkpoint = random_checkpoint(SHAPE, num_classes=10, readout="cls")
    model = checkpoint.build_model()
    started, cpu_started = time.perf_counter(), time.process_time()
    export_graphs(model, GraphForm(), checkpoint.preprocess)
    return {"wall_s": time.perf_counter() - started, "cpu_s": time.process_time() - cpu_started}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = []
    for _ in range(arguments.rounds):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            runs.append(alone.submit(measure).result())
        print(f"{runs[-1]['cpu_s']:.2f} s of CPU time, {runs[-1]['wall_s']:.2f} s on the clock", flush=True)
    cpu = [run["cpu_s"] for run in runs]
    write_json(
        arguments.out,
        {
            "command": f"python bench/export_time.py --rounds {arguments.rounds} --out {arguments.out}",
            "host": host_facts(),
            "note": "the cores were shared with other programs, which makes CPU time longer too: upper bounds",
            "model": SHAPE,
            "median_cpu_s": statistics.median(cpu),
            "min_cpu_s": min(cpu),
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
