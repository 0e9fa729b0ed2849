"""Served forgetting from a bundle's own sums: when a class is never answered again, and when exact weights are on disk.

    python bench/exact_serving.py --out bench/pfm_bench/results/exact_serving.json

An exact readout of random samples, 11 classes, width 2,048; a session answers one request after another in a thread
while classes are erased, one by one, from copies of the bundle. It takes a minute or two, can be stopped, and goes on
where it was.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pfm.storage
import pfm_export.serving.bundle
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
from pfm_export.serving import solving
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

CLASSES, SIDE = 11, 28
TIMES = ("last_with_ms", "first_without_ms", "durable_ms", "cpu_ms")
ERASED = ("class1", "class4", "class7", "class9")
BEFORE_S, AFTER_S = 0.3, 0.1  # that requests are made for, around an erasure


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
class Erasure:
    """One erasure, in milliseconds from its call.

    Attributes:
        name: of the class.
        is_first: of its session, which has to check the hashes of all sums.
        last_with_ms: until the end of the last answer of another thread that had the class; 0 where none had.
        first_without_ms: until the end of the first that had not.
        durable_ms: until the call returned: the class is gone from the files, and they hold exact weights.
        cpu_ms: processor time of the thread that erased; the two that read and hash sums beside it are not in it.
        phases_ms: of durable_ms: to solve, to search what is written, to write ledger, bank and manifest, all else.
        not_exact, exact: answers without the class by rows of the old solution, and by those solved anew.
        again: requests that began after the first one without the class and had it.
    """

    name: str
    is_first: bool
    last_with_ms: float
    first_without_ms: float
    durable_ms: float
    cpu_ms: float
    phases_ms: dict[str, float]
    not_exact: int
    exact: int
    again: int


@dataclasses.dataclass(frozen=True)
class Measured:
    """An erasure, and how long requests took before and during it."""

    erasure: Erasure
    idle_ms: list[float]
    during_ms: list[float]


@contextlib.contextmanager
def phases(found: dict[str, float]) -> Iterator[None]:
    """Add up how long the parts of erasures take."""
    timed = {
        "solve": (solving.ExactState, "solve"),
        "search": (pfm_export.serving.bundle, "search_files"),
        "write": (pfm.storage, "replacing"),
    }
    before = {name: getattr(owner, attribute) for name, (owner, attribute) in timed.items()}

    def wrapped(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return before[name](*arguments, **options)
            finally:
                found[name] = found.get(name, 0.0) + 1000 * (time.perf_counter() - started)

        return call

    @contextlib.contextmanager
    def replacing(*arguments: Any, **options: Any) -> Iterator[Any]:
        started = time.perf_counter()
        with before["write"](*arguments, **options) as file:
            yield file
        found["write"] = found.get("write", 0.0) + 1000 * (time.perf_counter() - started)

    for name, (owner, attribute) in timed.items():
        setattr(owner, attribute, replacing if name == "write" else wrapped(name))
    try:
        yield
    finally:
        for name, (owner, attribute) in timed.items():
            setattr(owner, attribute, before[name])


def erase_one(session: PromptSession, folder: Path, name: str, pixels: np.ndarray, *, is_first: bool) -> Measured:
    """Erase a class while another thread asks, one request after another."""
    requests: list[tuple[float, float, bool, bool | None]] = []  # began, ended, had the class, was exact
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            began = time.perf_counter()
            answer = session.predict(pixels)
            requests.append((began, time.perf_counter(), name in answer.classes, answer.is_exact))

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(BEFORE_S)
    parts: dict[str, float] = {}
    with phases(parts):
        started, used = time.perf_counter(), time.thread_time()
        session.erase(name, reason="bench")
        returned, cpu_ms = time.perf_counter(), 1000 * (time.thread_time() - used)
    time.sleep(AFTER_S)
    stop.set()
    thread.join()
    on_disk = Bundle.open(folder)
    assert (on_disk.is_exact, name in on_disk.classes.names, on_disk.pending) == (True, False, ())
    durable_ms = 1000 * (returned - started)
    parts["rest"] = durable_ms - sum(parts.values())
    first = next(ended for _, ended, had, _ in requests if not had)
    last = max((ended for _, ended, had, _ in requests if had), default=started)
    without = [is_exact for _, _, had, is_exact in requests if not had]
    erasure = Erasure(
        name=name,
        is_first=is_first,
        last_with_ms=max(0.0, 1000 * (last - started)),
        first_without_ms=1000 * (first - started),
        durable_ms=durable_ms,
        cpu_ms=cpu_ms,
        phases_ms={part: round(took, 2) for part, took in parts.items()},
        not_exact=without.count(False),
        exact=without.count(True),
        again=sum(had for began, _, had, _ in requests if began >= first),
    )
    return Measured(
        erasure=erasure,
        idle_ms=[1000 * (ended - began) for began, ended, *_ in requests if ended < started],
        during_ms=[1000 * (ended - began) for began, ended, *_ in requests if ended >= started and began <= returned],
    )


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and the largest."""
    p50, p99 = np.percentile(values, (50, 99))
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "worst": round(max(values), 3),
            "count": len(values)}  # fmt: skip


def unfolded(counted: dict[str, int]) -> list[float]:
    """Milliseconds, rounded to two digits, each as often as it was counted."""
    return [float(value) for value, count in counted.items() for _ in range(count)]


def described(erasures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the erasures say together."""
    parts = erasures[0]["phases_ms"]
    return {
        "erasures": len(erasures),
        "answered_again": sum(entry["again"] for entry in erasures),
        **{name: quantiles([e[name] for e in erasures]) for name in TIMES},
        "durable_ms_first_of_a_session": quantiles([e["durable_ms"] for e in erasures if e["is_first"]]),
        "durable_within_500_ms": sum(e["durable_ms"] <= 500 for e in erasures),
        "phases_ms": {part: quantiles([e["phases_ms"].get(part, 0.0) for e in erasures]) for part in parts},
    }


def main() -> None:
    """Measure what the file has not, and write after each copy of the bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=2200)
    parser.add_argument("--rounds", type=int, default=16, help="copies of the bundle, four erasures each")
    parser.add_argument("--again", action="store_true", help="start anew although the file has some already")
    parser.add_argument("--out", required=True, type=Path)
    arguments = parser.parse_args()
    facts = {
        "command": f"python bench/exact_serving.py --out bench/pfm_bench/results/{arguments.out.name}",
        "host": host_facts(), "width": arguments.width, "classes": CLASSES,
    }  # fmt: skip
    before = json.loads(arguments.out.read_text()) if arguments.out.exists() and not arguments.again else {}
    # older files have no such times
    is_same = all("cpu_ms" in entry for entry in before.get("each", [{}]))
    is_same = is_same and all(before.get(name) == facts[name] for name in ("width", "classes"))
    erasures: list[dict[str, Any]] = before["each"] if is_same else []
    samples: dict[str, dict[str, int]] = before["requests"] if is_same else {"idle": {}, "during": {}}
    with tempfile.TemporaryDirectory() as temporary:
        made = make_bundle(Path(temporary), arguments.width, arguments.samples)
        sums_bytes = sum(file.stat().st_size for file in made.glob("sums.*.bin"))
        for number in range(len(erasures) // len(ERASED), arguments.rounds):
            folder = Path(temporary) / f"copy{number}"
            shutil.copytree(made, folder)
            os.sync()  # a bundle in service was written long ago
            session = PromptSession(folder, device="cpu", threads=1)
            pixels = np.random.default_rng(number).normal(0, 1, (1, 3, SIDE, SIDE)).astype(np.float32)
            found = [erase_one(session, folder, name, pixels, is_first=name == ERASED[0]) for name in ERASED]
            shutil.rmtree(folder)
            erasures += [dataclasses.asdict(entry.erasure) for entry in found]
            for name, own in (("idle", [e.idle_ms for e in found]), ("during", [e.during_ms for e in found])):
                for value in itertools.chain(*own):
                    rounded = f"{value:.2g}"
                    samples[name][rounded] = samples[name].get(rounded, 0) + 1
            told = described(erasures)
            write_json(
                arguments.out,
                {
                    **facts, "sums_bytes": sums_bytes, "summary": told,
                    "request_ms": {name: quantiles(unfolded(own)) for name, own in samples.items()},
                    "each": erasures, "requests": samples,
                },
            )  # fmt: skip
            print(f"{len(erasures)} erasures: {told}", flush=True)


if __name__ == "__main__":
    main()
