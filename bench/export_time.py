"""How long an export takes.

    python bench/export_time.py --rounds 5 --out bench/pfm_bench/results/export_time.json

writes the seconds from a ViT-B/16 model in memory to the bytes of its float32 graph, on the clock and of CPU time; each
export is done in a process of its own.
"""

import argparse
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from pfm.storage import write_json
from pfm_bench.measuring.rounds import Duration, timed
from pfm_bench.reports.header import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs

SHAPE = "scratch:vit_base_patch16_224"


def measure() -> Duration:
    """Of one export, what it imports with it."""
    checkpoint = random_checkpoint(SHAPE, num_classes=10, readout="cls")
    model = checkpoint.build_model()
    return timed(lambda: export_graphs(model, GraphForm(), checkpoint.preprocess))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs: list[Duration] = []
    for _ in range(arguments.rounds):
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
            runs.append(alone.submit(measure).result())
        print(f"{runs[-1].cpu_s:.2f} s of CPU time, {runs[-1].wall_s:.2f} s on the clock", flush=True)
    cpu = [run.cpu_s for run in runs]
    write_json(
        arguments.out,
        {
            "command": f"python bench/export_time.py --rounds {arguments.rounds} --out {arguments.out}",
            "host": host_facts(),
            "note": "the cores were shared with other programs, which makes CPU time longer too: upper bounds",
            "model": SHAPE,
            "median_cpu_s": statistics.median(cpu),
            "min_cpu_s": min(cpu),
            "runs": [run.to_dict() for run in runs],
        },
    )


if __name__ == "__main__":
    main()
