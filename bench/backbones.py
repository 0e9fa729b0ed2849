"""Latency of bundles of published shapes beside torch, and beside the library's own model and its export.

    python bench/backbones.py --out bench/pfm_bench/results/backbones.json
    python bench/backbones.py --threads 2 --out bench/pfm_bench/results/backbones_two_threads.json
    python bench/backbones.py --out bench/pfm_bench/results/backbones.json --show

The first commands write, for ViT-B/16, DINOv2-B/14 and SigLIP 2-B/16 at 224 pixels and WavLM-base on a clip, with
random weights, the milliseconds of one input through:

- the bundle in ONNX Runtime and the model in torch, both with all prompts present;
- the library's own model in torch and, by torch's exporter, in ONNX Runtime, which know no prompts.

It checks before that the model without prompts gives the library's numbers. A shape is written when it is measured; the
same command goes on with those that are not there yet. About seven minutes for all, on quiet cores. The last command
prints the table of what is there.
"""

import argparse
import json
import shlex
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from pfm.backbones.backbone import SUMMARY
from pfm.model.classifier import PromptedClassifier
from pfm.storage import Json, write_json
from pfm_bench.measuring.rounds import Samples, measure
from pfm_bench.reports.header import host_facts
from pfm_bench.reports.markdown import markdown
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.serving.kinds import ordinary_kind
from pfm_export.serving.session import PromptSession

SHAPES = {
    "scratch:vit_base_patch16_224": "ViT-B/16, 224 px",
    "scratch:dinov2_base_patch14_224": "DINOv2-B/14, 224 px",
    "scratch:siglip2_base_patch16_224": "SigLIP 2-B/16, 224 px",
    "scratch:wavlm_base": "WavLM-base",
}
CLASSES = 10
PREPARING = 60  # seconds for a shape's model, bundle and exports, on quiet cores
REFERENCE = "bundle"
Call = Callable[[], object]


class _Summary(torch.nn.Module):
    """The library's model, of which one tensor is taken.

    Args:
        has_cls: whether the first token sums an input up where the library has nothing that does; else their mean.
    """

    def __init__(self, model: torch.nn.Module, *, has_cls: bool) -> None:
        super().__init__()
        self.model = model
        self.has_cls = has_cls

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.model(inputs)
        pooled = getattr(outputs, "pooler_output", None)
        if pooled is not None:
            return pooled
        return outputs.last_hidden_state[:, 0] if self.has_cls else outputs.last_hidden_state.mean(dim=1)


def library_model(model: PromptedClassifier) -> _Summary:
    """The library's model of the same shape."""
    spec = model.backbone.spec
    config_class, model_class = spec.family.hf_classes()
    given = {key: value for key, value in spec.config.items() if key not in ("model_type", "max_length")}
    torch.manual_seed(0)
    library = model_class(config_class(**given), **spec.family.model_settings)
    return _Summary(library, has_cls=bool(spec.family.special_tokens)).eval()


def worst_difference(model: PromptedClassifier, library: _Summary, inputs: torch.Tensor) -> float:
    """Between the library's summary of an input and ours, of the library's weights and no prompt present."""
    backbone = model.backbone
    ours = backbone.spec.family.names(library.model.state_dict())
    own = {key: ours[key] for key in backbone.encoder.state_dict()}
    backbone.encoder.load_state_dict(own)
    with torch.inference_mode():
        found = backbone.read(backbone.embed(inputs), 0, SUMMARY, is_normalised=True)[:, 0]
        return float((found - library(inputs)).abs().max())


def exported(library: _Summary, inputs: torch.Tensor, threads: int) -> Call:
    """The library's model through torch's exporter, in ONNX Runtime."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what torch's own parts say to each other
        program = torch.onnx.export(library, (inputs,), dynamo=True, external_data=False, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    feed: dict[str, Any] = {session.get_inputs()[0].name: inputs.numpy()}
    return lambda: session.run(None, feed)


def model_input(model: PromptedClassifier, seconds: float, settings: Mapping[str, Any]) -> torch.Tensor:
    """One input (1, …); of sounds whose length is open, so long, or as long as the window is."""
    kind = ordinary_kind(settings["kind"])(settings)
    shape = list(model.backbone.input_shape)
    if "samples" in kind.axes:
        place = kind.axes.index("samples")
        shape[place] = min(shape[place], round(seconds * settings["sampling_rate"]))
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))


def measure_shape(shape: str, options: argparse.Namespace) -> Json:
    """All calls of one shape, in interleaved rounds."""
    checkpoint = random_checkpoint(shape, num_classes=CLASSES, readout="cls")
    model = checkpoint.build_model()
    inputs = model_input(model, options.clip, checkpoint.preprocess.to_dict())
    present = torch.arange(CLASSES)[None]
    library = library_model(model)
    difference = worst_difference(checkpoint.build_model(), library, inputs)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        parity = export_bundle(checkpoint, bundle).parity
        session = PromptSession(bundle, device="cpu", threads=options.threads)
        batch = np.ascontiguousarray(inputs.numpy())
        calls: dict[str, Call] = {
            REFERENCE: lambda: session.predict(batch),
            "torch": lambda: _inference(lambda: model.logits(inputs, present)),
            "library in torch": lambda: _inference(lambda: library(inputs)),
            "library exported": exported(library, inputs, options.threads),
        }
        samples = measure(calls, rounds=options.rounds, budget_s=options.budget)
    return {
        "shape": shape,
        "input": list(inputs.shape),
        "worst_difference_to_library": difference,
        "worst_difference_to_torch": parity.worst_difference,
        "rounds": samples.rounds,
        "median_ms": {name: samples.percentiles(name).p50_ms for name in calls},
        "bundle_to": _ratios(samples),
        "latency_ms": samples.latency_ms,
        "cpu_ms": samples.cpu_ms,
    }


def _ratios(samples: Samples[str]) -> Json:
    """Time of the bundle over that of each other call, on the clock and in CPU time."""
    others = [name for name in samples.latency_ms if name != REFERENCE]
    return {
        name: {
            clock: {"median": ratio.median, "low": ratio.low, "high": ratio.high}
            for clock, ratio in samples.ratio(REFERENCE, to=name).items()
        }
        for name in others
    }


def _inference(call: Call) -> object:
    with torch.inference_mode():
        return call()


def table(document: Mapping[str, Any]) -> str:
    """What was measured, for a page."""
    rows: list[dict[str, str]] = []
    for found in document["shapes"]:
        size = f", {found['input'][1] / 16_000:g} s" if len(found["input"]) == 2 else ""
        shape: str = found["shape"]
        row = {"model": SHAPES.get(shape, shape) + size}
        row |= {f"{name}, ms": f"{value:.0f}" for name, value in found["median_ms"].items()}
        ratio = found["bundle_to"]["torch"]["wall"]
        row["bundle / torch"] = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
        ratio = found["bundle_to"]["library exported"]["wall"]
        row["bundle / exported"] = f"{ratio['median']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"
        row["from the library"] = f"{found['worst_difference_to_library']:.0e}"
        rows.append(row)
    return markdown(rows)


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of each shape, at most")
    parser.add_argument("--budget", type=float, default=45, help="seconds for the rounds of each shape")
    parser.add_argument("--clip", type=float, default=3, help="seconds of a sound")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--show", action="store_true", help="print the table of what is there, and measure nothing")
    return parser.parse_args()


def main() -> None:
    options = _parsed()
    document: dict[str, Any] = json.loads(options.out.read_text()) if options.out.is_file() else {}
    if options.show:
        print(table(document))
        return
    torch.set_num_threads(options.threads)
    settings = {name: getattr(options, name) for name in ("rounds", "budget", "clip", "threads")}
    given = [f"--{name} {value:g}" for name, value in settings.items()]
    command = f"python bench/backbones.py {' '.join(given)} --out {shlex.quote(str(options.out))}"
    if document.get("command", command) != command:
        raise SystemExit(f"{options.out} is of other settings ({document['command']}); give those, or another --out")
    shapes: list[dict[str, Any]] = document.get("shapes", [])
    left = [shape for shape in options.shapes if all(found["shape"] != shape for found in shapes)]
    print(
        f"{len(left)} shapes: about {len(left) * (PREPARING + options.budget) / 60:.0f} min on quiet cores", flush=True
    )
    for shape in left:
        shapes.append({**measure_shape(shape, options), "host": host_facts()})
        write_json(options.out, {"command": command, "settings": settings, "shapes": shapes})
        print(table({"shapes": shapes[-1:]}), flush=True)


if __name__ == "__main__":
    main()
