"""What can be timed, behind one call: `prepare(batch_size, num_prompts)` gives a function to time."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from pfm.backbone import BackboneSpec, build_backbone
from pfm.checkpoint import Checkpoint
from pfm.classes import ClassList
from pfm.draws import shared_set
from pfm.lora import merged
from pfm.model import ModelConfig, PromptedClassifier
from pfm_export.bundle import OUTPUT, Bundle
from pfm_export.runtime import load_graph


class Target(Protocol):
    """A model in some runtime.

    Attributes:
        name: as it stands in tables.
        where: the device or execution provider that really runs it.
    """

    name: str
    where: str

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]: ...


def _images(bundle: Bundle, batch_size: int) -> np.ndarray:
    size = bundle.preprocess["size"]
    return np.random.default_rng(0).standard_normal((batch_size, 3, size, size), dtype=np.float32)


class OrtTarget:
    """The bundle in ONNX Runtime: model input and bank rows in, logits out."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, device: str, threads: int) -> None:
        self.bundle = bundle
        # threads that spin after a call would slow the runtime that is timed next
        self.runtime = load_graph(bundle, device=device, threads=threads, spin=False)
        self.where = self.runtime.get_providers()[0]

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]:
        rows = self.bundle.rows(range(num_prompts))
        feed = {self.bundle.input_name: _images(self.bundle, batch_size), **rows.feed()}
        outputs = [OUTPUT[self.bundle.readout]]
        return lambda: self.runtime.run(outputs, feed)


class TorchTarget:
    """The same model in eager torch (SDPA, adapters merged), under inference mode."""

    name = "torch"

    def __init__(self, model: PromptedClassifier, bundle: Bundle, *, device: torch.device) -> None:
        plain = merged(model).eval().to(device)
        assert isinstance(plain, PromptedClassifier)
        plain.backbone.set_attention("sdpa")
        self.model = plain
        self.bundle = bundle
        self.device = device
        self.where = str(device)

    def prepare(self, batch_size: int, num_prompts: int) -> Callable[[], object]:
        inputs = torch.from_numpy(_images(self.bundle, batch_size)).to(self.device)
        present = shared_set(list(range(num_prompts)), batch_size, self.device)

        def call() -> torch.Tensor:
            with torch.inference_mode():
                return self.model.logits(inputs, present).cpu()

        return call


def torch_model(bundle: Bundle, checkpoint: Checkpoint | None) -> tuple[PromptedClassifier, str]:
    """The checkpoint's model, or one of the bundle's shape with random weights; and which of the two."""
    if checkpoint is not None:
        return checkpoint.build_model(), "checkpoint"
    manifest: dict[str, Any] = bundle.manifest
    backbone = build_backbone(
        BackboneSpec(manifest["backbone"]["model_name"], manifest["backbone"]["config"]), seed=0, load_weights=False
    )
    config = ModelConfig(**manifest["training"]["model"])
    classes: ClassList = bundle.classes
    return PromptedClassifier(backbone, classes, config, None), "random weights of the bundle's shape"
