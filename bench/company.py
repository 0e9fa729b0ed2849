"""What a row of a large model gains by company: alone, in batches, beside another pass; wall time and processor time.

    python bench/company.py --out bench/pfm_bench/results/company.json

ViT-B/16 with random weights and per-request prompts, in ONNX Runtime and OpenVINO on two threads: one row after
another, batches of two, four and eight, and two callers at a time. In ONNX Runtime also two callers at a time of a
session of one thread, each with a core of its own. Everything is measured in turn, round by round.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pfm.storage import write_compact_json
from pfm_bench.measuring.stats import paired_speed
from pfm_bench.reports.header import FORMAT, host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.session import PromptSession

CLASSES, THREADS = 10, 2
DEVICES = {"cpu": "ONNX Runtime", "openvino": "OpenVINO", "openvino-bf16": "OpenVINO, bfloat16"}
SIZES = (1, 2, 4, 8)
ROWS = 8  # of a measurement, whatever the batch
ALONE = "1 row after another"


def asking(session: PromptSession, size: int, rows: int = ROWS) -> Callable[[], None]:
    """So many rows in batches."""
    inputs = session.input.random(size, np.random.default_rng(0))

    def ask() -> None:
        for _ in range(rows // size):
            session.predict(inputs)

    return ask


def at_a_time(session: PromptSession) -> Callable[[], None]:
    """As many rows by two callers, each one row after another."""
    half = asking(session, 1, ROWS // 2)

    def ask() -> None:
        callers = [threading.Thread(target=half) for _ in range(2)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    return ask


def ways(bundle: Path) -> dict[str, dict[str, Callable[[], None]]]:
    """By engine and name."""
    found: dict[str, dict[str, Callable[[], None]]] = {}
    for device, engine in DEVICES.items():
        session = PromptSession(bundle, device=device, threads=THREADS)
        found[engine] = {
            ALONE if size == 1 else f"batches of {size}": asking(session, size) for size in SIZES
        } | {"two callers, on the same threads": at_a_time(session)}  # fmt: skip
    single = PromptSession(bundle, device="cpu", threads=1)
    found[DEVICES["cpu"]]["two callers, a thread each"] = at_a_time(single)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="scratch:vit_base_patch16_224")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        checkpoint = random_checkpoint(given.shape, num_classes=CLASSES, readout="cls")
        export_bundle(checkpoint, bundle, form=GraphForm(per_request_prompts=True))
        measured = {
            engine: {name: (ask, list[float](), list[float]()) for name, ask in entries.items()}
            for engine, entries in ways(bundle).items()
        }
        for round_ in range(-1, given.rounds):  # the first warms up
            for entries in measured.values():
                for ask, walls, computed in entries.values():
                    before, begun = time.process_time(), time.perf_counter()
                    ask()
                    if round_ >= 0:
                        walls.append(1000 * (time.perf_counter() - begun) / ROWS)
                        computed.append(1000 * (time.process_time() - before) / ROWS)
    engines = {}
    for engine, entries in measured.items():
        alone = entries[ALONE][1]
        engines[engine] = {
            name: {
                "ms_a_row": float(np.median(walls)), "cpu_ms_a_row": float(np.median(computed)),
                "times_as_many": paired_speed(walls, alone).to_dict(), "ms_of_rounds": walls,
            }
            for name, (_, walls, computed) in entries.items()
        }  # fmt: skip
        for name, entry in engines[engine].items():
            print(f"{engine:20} {name:34} {entry['ms_a_row']:7.1f} ms a row, x{entry['times_as_many']['median']:.3f}")
    write_compact_json(
        given.out,
        {
            "format": FORMAT, "command": f"python bench/company.py --shape {given.shape} --rounds {given.rounds}",
            "host": host_facts(), "threads": THREADS, "rows": ROWS, "engines": engines,
        },
    )  # fmt: skip
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
