"""What can be timed, behind one call: `prepare(batch_size, num_prompts)` gives a function to time.

A target is planned first and built where it is needed: here for its latency, in a process of its own
for its memory.
"""

import functools
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec
from pfm.errors import ConfigError, DeviceError
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import ModelConfig, PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.lora import merged
from pfm_export.graph.form import GraphForm
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.kinds import InputKind
from pfm_export.serving.runtime import CPU, CUDA, choose_providers, load_graph

# name of a target -> device that ONNX Runtime is asked for; None where torch runs it
KINDS: dict[str, str | None] = {
    "torch": None,
    "torch-bf16": None,
    "torch.compile": None,
    "ort-cpu": "cpu",
    "ort-cuda": "cuda",
    "ort-tensorrt": "tensorrt",
}
_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
_GRAPHS = 1024  # more than anyone asks for at once


class Target(Protocol):
    """A model in some runtime.

    Attributes:
        where: the device or execution provider that really runs it.
    """

    where: str

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]: ...


@dataclass(frozen=True)
class Plan:
    """A target that is to be built; it can travel to another process.

    Attributes:
        name: as it stands in tables.
        kind: one of `KINDS`.
        bundle: gives the graph, or the shape of torch's model.
        checkpoint: torch's weights; None takes random ones.
        precision: of the weights: fp32, bf16, fp16 or int8.
        device: where torch runs.
    """

    name: str
    kind: str
    bundle: Path
    checkpoint: Path | None
    precision: str
    device: str
    threads: int

    @property
    def is_torch(self) -> bool:
        return KINDS[self.kind] is None

    @property
    def arithmetic(self) -> str:
        """The precision it computes in: a bundle in bf16 is only stored so."""
        return "fp32" if self.precision == "bf16" and not self.is_torch else self.precision

    def build(self) -> Target:
        """Load it."""
        bundle = Bundle.open(self.bundle)
        if not self.is_torch:
            return OrtTarget(bundle, device=str(KINDS[self.kind]), threads=self.threads)
        model = torch_model(bundle, None if self.checkpoint is None else load_checkpoint(self.checkpoint))
        return TorchTarget(
            model,
            bundle,
            device=torch.device(self.device),
            is_bf16=self.precision == "bf16",
            is_compiled=self.kind == "torch.compile",
        )

    def build_call(self, batch_size: int, num_prompts: int) -> Callable[[], object]:
        """Load it and prepare one call, for `peak_in_child`."""
        return self.build().prepare(batch_size, num_prompts)


def choose_kinds(wanted: Sequence[str], device: str) -> list[str]:
    """The kinds that were asked for, or those that this machine has.

    Args:
        device: "cpu", "cuda", or "auto"; which of them "those that this machine has" takes.

    Raises:
        ConfigError: there is no such target.
        DeviceError: the machine cannot run it.
    """
    has_gpu = torch.cuda.is_available() and device != "cpu"
    if device == "cuda" and not has_gpu:
        raise DeviceError("--device cuda: this machine has no GPU that torch can use; use --device auto or cpu")
    if not wanted:
        has_ort_cuda = has_gpu and choose_providers("auto")[0] == CUDA
        return ["torch", *(["ort-cpu"] if device != "cuda" else []), *(["ort-cuda"] if has_ort_cuda else [])]
    for kind in wanted:
        if kind not in KINDS:
            raise ConfigError(f"--targets {kind!r}: no such target; choose from {', '.join(KINDS)}")
        if KINDS[kind] in ("cuda", "tensorrt") and not has_gpu:
            reason = "--device cpu was given" if device == "cpu" else "this machine has no GPU that torch can use"
            raise DeviceError(f"--targets {kind}: {reason}")
        if kind == "torch.compile" and not has_gpu and not _has_compiler():
            raise DeviceError(
                "--targets torch.compile: there is no C++ compiler (g++, clang++ or $CXX) on this machine"
            )
    return list(dict.fromkeys(wanted))


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


def plan_targets(
    kinds: Sequence[str], folders: Sequence[Path], checkpoint: Path | None, *, device: str, threads: int
) -> list[Plan]:
    """One plan for each torch kind, and for each bundle in each ONNX Runtime kind.

    A bundle's target carries its precision in its name, and its folder where that is not enough.
    """
    precisions = [precision_of(Bundle.open(folder)) for folder in folders]
    torch_device = "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu"
    plans = []
    for kind in kinds:
        plan = functools.partial(Plan, kind=kind, checkpoint=checkpoint, device=torch_device, threads=threads)
        if KINDS[kind] is None:
            precision = "bf16" if kind == "torch-bf16" else "fp32"
            plans.append(plan(name=kind, bundle=folders[0], precision=precision))
            continue
        for folder, precision in zip(folders, precisions, strict=True):
            name = kind if precision == "fp32" else f"{kind} {precision}"
            if precisions.count(precision) > 1:
                name += f" ({folder.name})"
            plans.append(plan(name=name, bundle=folder, precision=precision))
    names = [plan.name for plan in plans]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two bundles would both be called {twice!r}; give folders of different names")
    return plans


def precision_of(bundle: Bundle) -> str:
    """As the manifest states it; a manifest that says nothing is of a float32 graph.

    Raises:
        ConfigError: a form whose time is not that of one call of one graph.
    """
    form = GraphForm.of(bundle)
    if form.split or form.per_request_prompts or form.with_frontend:
        raise ConfigError(f"{bundle.folder} is not of the ordinary form; pfm bench takes that, or --uint8_input")
    return form.precision


def random_inputs(kind: InputKind, batch_size: int) -> np.ndarray:
    """What the graph takes, such as (B, 3, S, S) float32 or (B, S, S, 3) uint8, S the backbone's where left open."""
    return kind.random(batch_size, np.random.default_rng(0))


class OrtTarget:
    """The bundle in ONNX Runtime: model input and bank rows in, logits out.

    On a GPU the inputs lie there before the call, as torch's do, and the logits come back to the CPU.
    """

    def __init__(self, bundle: Bundle, *, device: str, threads: int) -> None:
        self.bundle = bundle
        # threads that spin after a call would slow the runtime that is timed next
        self.runtime = load_graph(bundle, device=device, threads=threads, spin=False)
        self.where = self.runtime.get_providers()[0]
        (self.output,) = bundle.stated.signatures.head.outputs

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]:
        rows = self.bundle.rows(range(num_prompts))
        kind = self.bundle.input
        feed = {**kind.feed(random_inputs(kind, batch_size)), **rows.feed()}
        types = {node.name: _NUMPY_TYPES[node.type] for node in self.runtime.get_inputs()}
        feed = {name: array.astype(types[name], copy=False) for name, array in feed.items()}
        if self.where == CPU:
            return lambda: self.runtime.run([self.output], feed)
        return self._bind(feed)

    def _bind(self, feed: dict[str, np.ndarray]) -> Callable[[], object]:
        binding = self.runtime.io_binding()
        kept = []  # a binding holds addresses only
        for name, array in feed.items():
            if array.size == 0:
                binding.bind_cpu_input(name, array)
                continue
            tensor = torch.from_numpy(array).cuda()
            kept.append(tensor)
            binding.bind_input(name, "cuda", 0, array.dtype.type, list(array.shape), tensor.data_ptr())
        binding.bind_output(self.output, "cpu")
        torch.cuda.synchronize()

        def call() -> list[torch.Tensor]:
            self.runtime.run_with_iobinding(binding)
            return kept

        return call


class TorchTarget:
    """The same model in torch (SDPA, adapters merged), under inference mode: eager, or compiled for each shape."""

    def __init__(
        self,
        model: PromptedClassifier,
        bundle: Bundle,
        *,
        device: torch.device,
        is_bf16: bool = False,
        is_compiled: bool = False,
    ) -> None:
        plain = merged(model).eval().to(device)
        assert isinstance(plain, PromptedClassifier)
        plain.backbone.encoder.set_eager(False)
        if is_bf16:
            plain.backbone.to(torch.bfloat16)  # the readout stays float32, as in training
        self.bundle = bundle
        self.device = device
        self.where = str(device)
        self.logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = plain.logits
        if is_compiled:
            from torch._dynamo import config

            config.recompile_limit = max(config.recompile_limit, _GRAPHS)  # past it a model runs eagerly
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA on a CPU
            self.logits = torch.compile(plain.logits, dynamic=False)

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]:
        taken = random_inputs(self.bundle.input, batch_size)
        inputs = torch.from_numpy(self.bundle.input.model_input(taken)).to(self.device)
        present = shared_set(list(range(num_prompts)), batch_size, self.device)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return self.logits(inputs, present).cpu()

        return call


def torch_model(bundle: Bundle, checkpoint: Checkpoint | None) -> PromptedClassifier:
    """The checkpoint's model, or one of the bundle's shape with random weights."""
    if checkpoint is not None:
        return checkpoint.build_model()
    manifest: dict[str, Any] = bundle.manifest
    backbone = build_backbone(
        BackboneSpec(manifest["backbone"]["model_name"], manifest["backbone"]["config"]), seed=0, load_weights=False
    )
    config = ModelConfig(**manifest["training"]["model"])
    return PromptedClassifier(backbone, bundle.classes, config, None)
