"""The same model in torch (SDPA, adapters merged), under inference mode: eager, in bf16, or compiled for each shape."""

import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec
from pfm.device import compute_in_float32
from pfm.errors import DeviceError
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import ModelConfig
from pfm.model.draws import shared_set
from pfm.model.lora import merged
from pfm_bench.targets.plan import Call, Plan, Target
from pfm_export.serving.bundle import Bundle

_GRAPHS = 1024  # more than anyone asks for at once


@dataclass(frozen=True)
class TorchModel:
    """torch on its device."""

    is_bf16: bool = False
    is_compiled: bool = False
    reads_bundle: bool = False

    def check(self, device: str) -> None:
        has_gpu = torch.cuda.is_available() and device != "cpu"
        if self.is_compiled and not has_gpu and not _has_compiler():
            raise DeviceError("there is no C++ compiler (g++, clang++ or $CXX) on this machine")

    def is_default(self, device: str) -> bool:
        return not self.is_bf16 and not self.is_compiled

    def precision(self, of_bundle: str) -> str:
        return "bf16" if self.is_bf16 else "fp32"

    def arithmetic(self, precision: str) -> str:
        return precision

    def build(self, plan: Plan) -> Target:
        bundle = Bundle.open(plan.bundle)
        model = torch_model(bundle, None if plan.checkpoint is None else load_checkpoint(plan.checkpoint))
        return TorchTarget(model, bundle, device=torch.device(plan.device), kind=self)


def _has_compiler() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "clang++"))


class TorchTarget:
    """Inputs on the device in, logits on the CPU out."""

    def __init__(self, model: PromptedClassifier, bundle: Bundle, *, device: torch.device, kind: TorchModel) -> None:
        compute_in_float32()
        plain = merged(model).eval().to(device)
        assert isinstance(plain, PromptedClassifier)
        plain.backbone.encoder.set_eager(False)
        if kind.is_bf16:
            plain.backbone.to(torch.bfloat16)  # the readout stays float32, as in training
        self.bundle = bundle
        self.device = device
        self.where = str(device)
        self.logits: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = plain.logits
        if kind.is_compiled:
            from torch._dynamo import config

            config.recompile_limit = max(config.recompile_limit, _GRAPHS)  # past it a model runs eagerly
            logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses CUDA on a CPU
            self.logits = torch.compile(plain.logits, dynamic=False)

    def prepare(self, batch_size: int, num_prompts: int) -> Call:
        kind = self.bundle.input
        taken = kind.random(batch_size, np.random.default_rng(0))
        inputs = torch.from_numpy(kind.model_input(taken)).to(self.device)
        present = shared_set(list(range(num_prompts)), batch_size, self.device)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return self.logits(inputs, present).cpu()

        return call


def torch_model(bundle: Bundle, checkpoint: Checkpoint | None) -> PromptedClassifier:
    """The checkpoint's model, or one of the bundle's shape with random weights."""
    if checkpoint is not None:
        return checkpoint.build_model()
    manifest = bundle.manifest
    backbone = build_backbone(
        BackboneSpec(manifest["backbone"]["model_name"], manifest["backbone"]["config"]), seed=0, load_weights=False
    )
    config = ModelConfig(**manifest["training"]["model"])
    return PromptedClassifier(backbone, bundle.classes, config, None)


EAGER, EAGER_BF16, COMPILED = TorchModel(), TorchModel(is_bf16=True), TorchModel(is_compiled=True)
COMPILED_BF16 = TorchModel(is_bf16=True, is_compiled=True)
