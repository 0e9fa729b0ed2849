"""Ways to write one ViT graph for the CPU, timed: what pfm exports, and what it does not.

    python bench/graph_variants.py --seconds 90 --out bench/pfm_bench/results/graph_variants.json
    python bench/graph_variants.py --ckpt cls/mednist_64_seed_42_5.pt --out …    # accuracy of static int8

writes the raw times of one interleaved run and their ratios; the second adds an accuracy to the same file.

Random weights, ten prompts, two threads. The ratio to another variant is the median over rounds of the ratio within a
round, with the bootstrap interval of `pfm bench`; CPU time is given beside it, since other programs share the cores.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from pfm.model.checkpoint import load_checkpoint
from pfm.storage import Json, sha256, write_json
from pfm_bench.measuring.stats import paired_ratio
from pfm_bench.reports.header import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.accuracy import find_samples, measure_accuracy
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.graph.fusion import fuse, fuse_attention
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import write_manifest
from pfm_export.serving.signature import MODEL

SHAPE, NUM_PROMPTS, THREADS = "scratch:vit_base_patch16_224", 10, 2
NUM_CALIBRATION = 48
Feed = dict[str, np.ndarray]
# name -> graph, and the variant that its ratio is to
VARIANTS: dict[str, tuple[Callable[[onnx.ModelProto, list[Feed]], onnx.ModelProto], str]] = {
    "fp32": (lambda proto, _: proto, "fp32"),
    "fp32, blocks fused": (lambda proto, _: fuse(proto), "fp32"),
    "fp32, attention fused": (lambda proto, _: fuse_attention(proto), "fp32"),
    "int8 dynamic, portable": (
        lambda proto, _: PRECISIONS.get("int8").convert(proto, portable=True),
        "int8 dynamic, portable",
    ),
    "int8 dynamic, attention fused": (lambda proto, _: PRECISIONS.get("int8").convert(proto), "int8 dynamic, portable"),
    "int8 static QDQ": (lambda proto, feeds: static_int8(proto, feeds), "int8 dynamic, portable"),
}


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: list[Feed]) -> None:
        self.left = list(feeds)

    def get_next(self) -> Feed | None:  # type: ignore[override]  # None ends it, as the base class says in words
        return self.left.pop() if self.left else None


def static_int8(proto: onnx.ModelProto, feeds: list[Feed]) -> onnx.ModelProto:
    """Scales of activations fixed by calibration; the products that dynamic quantisation takes, the readout apart."""
    names = {initializer.name: list(initializer.dims) for initializer in proto.graph.initializer}
    for info in [info for info in proto.graph.value_info if info.name in names]:
        proto.graph.value_info.remove(info)
    readout = [n.name for n in proto.graph.node if n.op_type in ("MatMul", "Gemm") and 1 in names.get(n.input[1], [])]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / MODEL
        quantize_static(
            proto, target, _Reader(feeds), quant_format=QuantFormat.QDQ, op_types_to_quantize=["MatMul", "Gemm"],
            nodes_to_exclude=readout, per_channel=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )  # fmt: skip
        return onnx.load(target)


def random_feed(batch_size: int, seed: int = 0) -> Feed:
    """Inputs of the ordinary graph with the cls readout."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((2, NUM_PROMPTS, 768), dtype=np.float32)
    pixels = random.standard_normal((batch_size, 3, 224, 224), dtype=np.float32)
    bias = np.zeros(NUM_PROMPTS, np.float32)
    return {"pixel_values": pixels, "prompts": rows[0], "class_weight": rows[1], "class_bias": bias}


def time_variants(batch_size: int, seconds: float) -> dict[str, Any]:
    """Raw milliseconds on the clock and of CPU time, by variant, and the ratios."""
    checkpoint = random_checkpoint(SHAPE, num_classes=NUM_PROMPTS, readout="cls")
    content = export_graphs(checkpoint.build_model(), GraphForm(), checkpoint.preprocess)[MODEL]
    calibration = [random_feed(2, seed) for seed in range(1, 4)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    sessions = {
        name: onnxruntime.InferenceSession(
            make(onnx.load_from_string(content), calibration).SerializeToString(), options,
            providers=["CPUExecutionProvider"],
        )
        for name, (make, _) in VARIANTS.items()
    }  # fmt: skip
    feed = random_feed(batch_size)
    wall: dict[str, list[float]] = {name: [] for name in sessions}
    cpu: dict[str, list[float]] = {name: [] for name in sessions}
    for session in list(sessions.values()) * 2:
        session.run(None, feed)
    random, names, end = np.random.default_rng(0), list(sessions), time.monotonic() + seconds
    while time.monotonic() < end or len(wall[names[0]]) < 10:
        for index in random.permutation(len(names)):
            name = names[index]
            started, cpu_started = time.perf_counter(), time.process_time()
            sessions[name].run(None, feed)
            wall[name].append(1000 * (time.perf_counter() - started))
            cpu[name].append(1000 * (time.process_time() - cpu_started))
    return {
        name: {
            "to": other,
            "wall": paired_ratio(wall[name], wall[other]).to_dict(),
            "cpu": paired_ratio(cpu[name], cpu[other]).to_dict(),
            "wall_ms": [round(value, 2) for value in wall[name]],
            "cpu_ms": [round(value, 2) for value in cpu[name]],
        }
        for name, (_, other) in VARIANTS.items()
    }


def static_accuracy(path: Path) -> Json:
    """Accuracy and forgetting of a checkpoint in static int8, calibrated on a few test images, on all of them."""
    checkpoint = load_checkpoint(path)
    samples = find_samples(checkpoint, max_samples=10**9)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export_bundle(checkpoint, folder)
        bundle = Bundle.open(folder)
        pixels = checkpoint.preprocess(samples.inputs[:NUM_CALIBRATION]).numpy()
        rows = bundle.rows(range(len(bundle.classes))).feed()
        feeds = [{"pixel_values": part, **rows} for part in np.split(pixels, 6)]
        onnx.save(static_int8(onnx.load(folder / MODEL), feeds), folder / MODEL)
        files = {**bundle.manifest["files"], MODEL: {"sha256": sha256(folder / MODEL), "size_bytes": 0}}
        write_manifest(folder, {**bundle.manifest, "files": files})
        return measure_accuracy(checkpoint.build_model(), folder, samples).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--ckpt", type=Path, default=None, help="measure the accuracy of static int8 on this one instead"
    )
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    document = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    if arguments.ckpt is not None:
        name = f"{arguments.ckpt.parent.name}/{arguments.ckpt.name}"
        document.setdefault("static_int8_accuracy", {})[name] = static_accuracy(arguments.ckpt)
        print(json.dumps(document["static_int8_accuracy"][name], indent=1))
    else:
        document["command"] = f"python bench/graph_variants.py --seconds {arguments.seconds:g} --out {arguments.out}"
        document["host"] = host_facts()
        document["note"] = "the cores were shared with other programs: ratios within a round are what counts"
        timed = time_variants(arguments.batch_size, arguments.seconds)
        document.setdefault("variants", {})[f"batch {arguments.batch_size}"] = timed
        for name, entry in timed.items():
            cells = [f"{kind} ×{e['median']:.3f} ({e['low']:.3f}–{e['high']:.3f})"
                     for kind in ("wall", "cpu") for e in [entry[kind]]]  # fmt: skip
            print(f"{name:<32}{'  '.join(cells)}  of {entry['to']}, {len(entry['wall_ms'])} rounds")
    write_json(arguments.out, document)


if __name__ == "__main__":
    main()
