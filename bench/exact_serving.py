"""Served forgetting from a bundle's own sums: when a class is never answered again, and when exact weights are on disk.

    python bench/exact_serving.py --out bench/pfm_bench/results/exact_serving.json

An exact readout of random samples, 11 classes, width 2,048; a session answers one request after another in a thread
while classes are erased, one by one.
"""

import argparse
import dataclasses
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from pfm.backbones.config import BackboneConfig
from pfm.classes import ClassList
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.splits import ClassificationData, Split
from pfm.device import DeviceConfig
from pfm.evaluation.config import EvalConfig
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig
from pfm.storage import write_json
from pfm.training.config import RunConfig, TrainConfig
from pfm.training.run import train
from pfm_bench.reports.header import host_facts
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession
from pfm_export.serving.solving import SOLVED

CLASSES, SIDE = 11, 28


def make_bundle(folder: Path, width: int, samples: int) -> Path:
    """A bundle with sums, fitted on noise of a mean that tells the class."""
    random = np.random.default_rng(0)
    labels = np.arange(samples) % CLASSES
    means = random.integers(40, 215, (CLASSES, 1, SIDE, SIDE))
    images = (means[labels] + random.normal(0, 25, (samples, 1, SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    split = Split(torch.from_numpy(images), torch.from_numpy(labels))
    data = ClassificationData("noise", ClassList.from_names([f"class{i}" for i in range(CLASSES)]), split, split)
    config = RunConfig(
        data=DataConfig(dataset="digits"), backbone=BackboneConfig(model_name="scratch:raw_pixels"),
        model=ModelConfig(readout="ridge", features="raw", width=width), lora=LoraSettings(),
        train=TrainConfig(save_dir=str(folder / "run"), eval_every=0), augment=AugmentConfig(), evaluation=EvalConfig(),
        device=DeviceConfig(cpu=True),
    )  # fmt: skip
    result = train(config, torch.device("cpu"), lambda _: None, data=data)
    export_bundle(load_checkpoint(result.checkpoint), folder / "bundle", with_sums=True)
    return folder / "bundle"


@dataclasses.dataclass
class Round:
    """One erasure, in milliseconds from its call.

    Attributes:
        first_without_ms: until a request of another thread was answered without the class.
        erase_ms: until it was gone from the files, and the call returned.
        exact_ms: until exact weights were on disk.
        answered: requests that began after the first one without the class and still had it.
    """

    first_without_ms: float
    erase_ms: float
    exact_ms: float
    answered: int


def erase_one(session: PromptSession, folder: Path, name: str, pixels: np.ndarray) -> tuple[Round, list[float]]:
    """Erase a class while another thread asks; the latencies of its requests."""
    requests: list[tuple[float, float, bool]] = []  # began, ended, had the class
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            answer = session.predict(pixels)
            requests.append((began, time.perf_counter(), name in answer.classes))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.3)
    started = time.perf_counter()
    session.erase(name, reason="bench")
    erase_ms = 1000 * (time.perf_counter() - started)
    assert session.settle(), "the rows are exact"
    assert (folder / SOLVED).exists()
    exact_ms = 1000 * (time.perf_counter() - started)
    time.sleep(0.1)
    stop.set()
    thread.join()
    first = next(ended for _, ended, had in requests if not had)
    late = sum(had for began, _, had in requests if began >= first)
    latencies = [1000 * (ended - began) for began, ended, _ in requests if ended >= started]
    return Round(1000 * (first - started), erase_ms, exact_ms, late), latencies


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=2200)
    parser.add_argument("--rounds", type=int, default=3, help="copies of the bundle, four erasures each")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    rounds: list[Round] = []
    latencies: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        made = make_bundle(Path(temporary), arguments.width, arguments.samples)
        sums_bytes = sum(file.stat().st_size for file in made.glob("sums.*.bin"))
        for number in range(arguments.rounds):
            folder = Path(temporary) / f"copy{number}"
            shutil.copytree(made, folder)
            session = PromptSession(folder, device="cpu", threads=1)
            pixels = np.random.default_rng(1).normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
            session.predict(pixels, exact=True, without="class0")  # the sums' hashes are checked once
            for name in ("class1", "class4", "class7", "class9"):
                found, own = erase_one(session, folder, name, pixels)
                rounds.append(found)
                latencies += own
                print(found, flush=True)
    quantiles = {f"p{q}": round(float(np.percentile(latencies, q)), 3) for q in (50, 99)}
    write_json(
        arguments.out,
        {
            "command": f"python bench/exact_serving.py --width {arguments.width} --out {arguments.out}",
            "host": host_facts(),
            "width": arguments.width,
            "classes": CLASSES,
            "sums_bytes": sums_bytes,
            "rounds": [dataclasses.asdict(entry) for entry in rounds],
            "answered_after": sum(entry.answered for entry in rounds),
            "exact_ms_worst": max(entry.exact_ms for entry in rounds),
            "request_ms": {**quantiles, "count": len(latencies)},
        },
    )
    print(quantiles, "exact, worst", max(entry.exact_ms for entry in rounds))


if __name__ == "__main__":
    main()
