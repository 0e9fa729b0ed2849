"""Latency of bundles of published shapes beside torch, and beside the library's own model and its export.

    python bench/backbones.py --rounds 30 --out bench/pfm_bench/results/backbones.json

writes, for ViT-B/16, DINOv2-B/14 and SigLIP 2-B/16 at 224 pixels with random weights, the milliseconds of an image
through:

- the bundle in ONNX Runtime and the model in torch, both with all prompts present;
- the library's own model in torch and, by torch's exporter, in ONNX Runtime, which know no prompts.

It checks before that the bundle without prompts gives the library's numbers.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from pfm.backbones.backbone import SUMMARY
from pfm.model.classifier import PromptedClassifier
from pfm.storage import Json, write_json
from pfm_bench.measuring.rounds import measure
from pfm_bench.reports.header import host_facts
from pfm_bench.targets.random_bundle import random_checkpoint, write_random_bundle
from pfm_export.serving.session import PromptSession

SHAPES = ("scratch:vit_base_patch16_224", "scratch:dinov2_base_patch14_224", "scratch:siglip2_base_patch16_224")
CLASSES = 10
Call = Callable[[], object]


class _Summary(torch.nn.Module):
    """The library's model, of which one tensor is taken."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        outputs = self.model(pixels)
        pooled = getattr(outputs, "pooler_output", None)
        return outputs.last_hidden_state[:, 0] if pooled is None else pooled


def library_model(model: PromptedClassifier) -> _Summary:
    """The library's model of the same shape and the same initial weights."""
    spec = model.backbone.spec
    config_class, model_class = spec.family.hf_classes()
    given = {key: value for key, value in spec.config.items() if key != "model_type"}
    torch.manual_seed(0)
    return _Summary(model_class(config_class(**given), **spec.family.model_settings)).eval()


def worst_difference(model: PromptedClassifier, library: _Summary, pixels: torch.Tensor) -> float:
    """Between the library's summary of an image and ours, of the library's weights and no prompt present."""
    backbone = model.backbone
    ours = backbone.spec.family.names(library.model.state_dict())
    own = {key: ours[key] for key in backbone.encoder.state_dict()}
    backbone.encoder.load_state_dict(own)
    with torch.inference_mode():
        found = backbone.read(backbone.embed(pixels), 0, SUMMARY, is_normalised=True)[:, 0]
        return float((found - library(pixels)).abs().max())


def exported(library: _Summary, pixels: torch.Tensor, threads: int) -> Call:
    """The library's model through torch's exporter, in ONNX Runtime."""
    buffer = io.BytesIO()
    program = torch.onnx.export(library, (pixels,), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    buffer.write(program.model_proto.SerializeToString())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {session.get_inputs()[0].name: pixels.numpy()}
    return lambda: session.run(None, feed)


def measure_shape(shape: str, rounds: int, threads: int) -> Json:
    """All calls of one shape, in interleaved rounds."""
    checkpoint = random_checkpoint(shape, num_classes=CLASSES, readout="cls")
    model = checkpoint.build_model()
    pixels = torch.randn(1, *model.backbone.input_shape, generator=torch.Generator().manual_seed(0))
    present = torch.arange(CLASSES)[None]
    library = library_model(model)
    difference = worst_difference(checkpoint.build_model(), library, pixels)
    with tempfile.TemporaryDirectory() as folder:
        write_random_bundle(checkpoint, Path(folder) / "bundle")
        session = PromptSession(Path(folder) / "bundle", device="cpu", threads=threads)
        batch = np.ascontiguousarray(pixels.numpy())
        calls: dict[str, Call] = {
            "bundle": lambda: session.predict(batch),
            "torch": lambda: _inference(lambda: model.logits(pixels, present)),
            "library in torch": lambda: _inference(lambda: library(pixels)),
            "library exported": exported(library, pixels, threads),
        }
        samples = measure(calls, rounds=rounds)
    ratios = {name: samples.ratio("bundle", to=name)["wall"] for name in calls if name != "bundle"}
    return {
        "shape": shape,
        "worst_difference_to_library": difference,
        "latency_ms": samples.latency_ms,
        "bundle_to": {name: {"median": r.median, "low": r.low, "high": r.high} for name, r in ratios.items()},
    }


def _inference(call: Call) -> object:
    with torch.inference_mode():
        return call()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = []
    for shape in arguments.shapes:
        found.append(measure_shape(shape, arguments.rounds, arguments.threads))
        print(f"{shape}: {found[-1]['bundle_to']}", flush=True)
    command = f"python bench/backbones.py --rounds {arguments.rounds} --threads {arguments.threads}"
    write_json(arguments.out, {"command": f"{command} --out {arguments.out}", "host": host_facts(), "shapes": found})


if __name__ == "__main__":
    main()
