"""What `pfm bench train` and `pfm bench eval` start from: options, random data, the models that are compared.

Weights, images and labels are random, since none of them changes how long the work takes.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.classes import ClassList
from pfm.data.images import ImageStorage
from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.device import compute_in_float32
from pfm.errors import ConfigError, DeviceError
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings, ModelConfig
from pfm.seeds import make_generator
from pfm.storage import Json
from pfm_bench.targets.config import BenchConfig
from pfm_bench.targets.plain import PlainClassifier

PLAIN = "plain"
LORA = LoraSettings()
WARMUP_ROUNDS = 1
NUM_BATCHES = 2  # of random images, taken in turn
HEAVY = (__name__, "transformers.models.vit.modeling_vit")  # what a child imports before its memory is looked at


@dataclass(frozen=True)
class Variant:
    """One way of ours to do the work.

    Attributes:
        prompt_layer: the block before which the prompts enter (L).
        frozen: how the frozen weights are stored (`--frozen_dtype`); all else is float32.
        is_cached: the trunk's tokens are on the device (`--cache_trunk device`); only the blocks from L on run.
        is_compiled: by torch.compile.
    """

    prompt_layer: int = 0
    frozen: torch.dtype = torch.float32
    is_cached: bool = False
    is_compiled: bool = False

    def describe(self) -> Json:
        """As it stands in the JSON."""
        return {
            "prompt_layer": self.prompt_layer,
            "frozen_dtype": dtype_name(self.frozen),
            "is_cached": self.is_cached,
            "is_compiled": self.is_compiled,
        }

    @property
    def name(self) -> str:
        layer = f"L={self.prompt_layer}" if self.prompt_layer else ""
        marks = (layer, self.is_cached and "cached", self.frozen == torch.bfloat16 and "bf16")
        return " ".join(["ours", *(mark for mark in (*marks, self.is_compiled and "compiled") if mark)])


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def list_variants(spec: BackboneSpec) -> list[Variant]:
    """Prompts at block 0 and half way up, each in float32 and bf16."""
    layers = sorted({0, spec.num_layers // 2})
    return [Variant(layer, dtype) for layer in layers for dtype in (torch.float32, torch.bfloat16)]


@dataclass(frozen=True)
class Workbench:
    """What every variant starts from.

    Attributes:
        split: random images and labels.
    """

    config: BenchConfig
    spec: BackboneSpec
    device: torch.device
    preprocess: Preprocess
    split: Split

    def settings(self) -> Json:
        """As they stand in the JSON."""
        return {
            "model_name": self.spec.model_name,
            "weights": "random",
            "image_size": self.spec.input_shape[-1],
            "num_classes": self.config.num_classes,
            "batch_size": self.config.batch_size,
            "lora_r": LORA.lora_r,
            "device": self.device.type,
            "threads": torch.get_num_threads(),
            "seed": self.config.seed,
            "peak_memory": "allocated by torch on the GPU, above what was there before"
            if self.device.type == "cuda"
            else "resident in a process of its own, above what its libraries take",
        }


def set_up(config: BenchConfig, num_images: int | None = None) -> Workbench:
    """Look at the options and make random data.

    Raises:
        DeviceError: a GPU was asked for that is not there.
        BackboneError: no such backbone.
        ConfigError: one whose inputs are not images.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: this machine has no GPU; use --device auto or cpu")
    use_cpu = config.device == "cpu" or not torch.cuda.is_available()
    device = torch.device("cpu") if use_cpu else torch.device("cuda", 0)
    compute_in_float32()
    spec = describe_backbone(BackboneConfig(model_name=config.model_name))
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    make = RANDOM_INPUTS.get(spec.storage.kind)
    if make is None:
        raise ConfigError(f"{config.model_name} takes {spec.storage.noun}; pfm bench train and eval measure images")
    generator = make_generator(config.seed, "images")
    count = num_images or NUM_BATCHES * config.batch_size
    images = make(count, spec.input_shape, generator)
    return Workbench(
        config=config,
        spec=spec,
        device=device,
        preprocess=spec.preprocess or spec.storage.default_preprocess(spec.input_shape),
        split=Split(images, torch.randint(config.num_classes, (count,), generator=generator)),
    )


def _random_images(count: int, input_shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """(count, 3, S, S) uint8, stored at the size that the model takes."""
    return torch.randint(256, (count, *input_shape), dtype=torch.uint8, generator=generator)


# kind of input -> `count` stored inputs that a model with this input shape takes
RANDOM_INPUTS: dict[str, Callable[[int, tuple[int, ...], torch.Generator], torch.Tensor]] = {
    ImageStorage.kind: _random_images
}


def build_ours(bench: Workbench, variant: Variant) -> PromptedClassifier:
    """One of our models; the same weights whatever the variant."""
    backbone = build_backbone(bench.spec, seed=bench.config.seed, load_weights=False)
    torch.manual_seed(bench.config.seed)
    classes = ClassList.from_names([str(i) for i in range(bench.config.num_classes)])
    settings = ModelConfig(tune="lora", prompt_layer=variant.prompt_layer)
    model = PromptedClassifier(backbone, classes, settings, LORA)
    if variant.frozen != torch.float32:
        model.store_frozen(variant.frozen)
    model.to(bench.device)
    return model


def build_plain(bench: Workbench) -> PlainClassifier:
    """The plain model, its own random weights."""
    torch.manual_seed(bench.config.seed)
    return PlainClassifier(bench.spec, bench.config.num_classes, LORA, seed=bench.config.seed).to(bench.device)
