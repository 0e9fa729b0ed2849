"""Raw input as features: pooled pixels or log-mel frames, without weights or blocks; for readouts that are solved.

The windows are summed, brought to a fixed offset and scale, and nothing in it is measured on data. Pixels are integers
again before they are summed, so that the sums are the same on every machine.

Letters: B batch, C channels, S pixels of the side, L frames, M mel bins, D pooled values.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Family, HfConfig, Tensors
from pfm.errors import BackboneError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import Block, BlockShape
    from pfm.data.inputs import Preprocess, Storage

MOST_ACROSS = 16  # windows of an image's side
FRAMES, BINS = 12, 2  # of a window of sound
EARLIER_FRAMES = 4  # of files that do not say


class RawConfig:
    """Plain values, as a configuration of transformers gives them."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def to_dict(self) -> HfConfig:
        """The values."""
        return self.values


class Raw(Family):
    """What pooled pixels and pooled frames share."""

    final_norm = False  # brightness and loudness stay
    special_tokens = ()
    adapter_targets = ()

    def hf_classes(self) -> tuple[Any, Any]:
        return functools.partial(RawConfig, model_type=self.name), type(self)

    def read_processor(self, where: str) -> HfConfig:
        raise OSError(f"{where} has no processor; raw features are not stored in a folder")

    def preprocess(self, config: HfConfig, processor: HfConfig, model_name: str) -> Preprocess:
        return self.storage(config, None).default_preprocess(self.input_shape(config))

    def block_shape(self, config: HfConfig) -> BlockShape:
        from pfm.backbones.encoder import BlockShape

        return BlockShape(hidden_size=config["hidden_size"], num_heads=1, intermediate_size=1, layer_norm_eps=1e-6)

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        del keys
        return self.patch_embeddings(config)

    def block(self, config: HfConfig, number: int, keys: RowKeys) -> Block:
        raise BackboneError("raw features have no blocks")

    def initial_weights(self, config: HfConfig) -> Tensors:
        import torch

        size = config["hidden_size"]
        return {"layernorm.weight": torch.ones(size), "layernorm.bias": torch.zeros(size)}

    def patch_values(self, config: HfConfig) -> int:
        return 1

    def config_of(self, weights: Tensors) -> HfConfig | None:
        return None

    def assumption(self) -> str:
        return "a fixed offset and scale"

    def feature_size(self, config: HfConfig, which: str) -> int:
        return config["hidden_size"]

    def features(self, summary: torch.Tensor, patches: torch.Tensor, which: str) -> torch.Tensor:
        return summary[:, 0]


class RawPixels(Raw):
    """Mean pixels of up to 16 x 16 windows, in units of 64 grey levels about the middle."""

    name, title, noun, size_option = "raw_pixels", "raw pixels", "images", "image_size"
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "raw_pixels": {"image_size": 64, "num_channels": 3, "hidden_size": 768, "num_hidden_layers": 0},
    }

    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        return _of_pixels({**config, "image_size": size})

    def fitted(self, config: HfConfig, stored_shape: tuple[int, ...]) -> HfConfig:
        channels, height, width = stored_shape
        size = height if height == width else config["image_size"]
        return _of_pixels({**config, "image_size": size, "num_channels": channels})

    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> Storage:
        from pfm.data.images import ImageStorage

        return ImageStorage(config["image_size"])

    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        return (3, config["image_size"], config["image_size"])

    def grid(self, config: HfConfig) -> tuple[int, int]:
        across = config["image_size"] // _window(config["image_size"])
        return across, across

    def describe_size(self, config: HfConfig) -> str:
        across = self.grid(config)[0]
        return f"{config['image_size']} px, pooled to {across} x {across}"

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.pooling import PooledPixels

        return PooledPixels(config["num_channels"], _window(config["image_size"]))


def _window(side: int) -> int:
    return -(-side // MOST_ACROSS)


def _of_pixels(config: HfConfig) -> HfConfig:
    across = config["image_size"] // _window(config["image_size"])
    return {**config, "hidden_size": config["num_channels"] * across**2}


class RawSounds(Raw):
    """Mean log-mel values of windows of 12 frames (0.12 s) and 2 bins, at a fixed offset and scale."""

    name, title, noun, size_option = "raw_sounds", "raw log-mel frames", "sounds", "max_length"
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "raw_sounds": {"max_length": 96, "num_mel_bins": 64, "hidden_size": 256, "num_hidden_layers": 0,
                       "pool_frames": FRAMES},
    }  # fmt: skip

    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        values = {**config, "max_length": size, "pool_frames": min(size, _frames(config))}
        down, across = self.grid(values)
        return {**values, "hidden_size": down * across}

    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> Storage:
        from pfm.data.sounds import SoundStorage

        return SoundStorage(getattr(preprocess, "sampling_rate", 16_000), config["num_mel_bins"])

    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        return (config["max_length"], config["num_mel_bins"])

    def constant_preprocess(self, config: HfConfig) -> Preprocess:
        from pfm.data.sounds import SoundPreprocess

        return SoundPreprocess(
            max_length=config["max_length"], mean=0.0, std=0.5, num_mel_bins=config["num_mel_bins"]
        )  # as stored, so that a frame that is not there can be told

    def grid(self, config: HfConfig) -> tuple[int, int]:
        return config["num_mel_bins"] // BINS, config["max_length"] // _frames(config)

    def describe_size(self, config: HfConfig) -> str:
        down, across = self.grid(config)
        return f"{config['max_length']} frames, pooled to {across} x {down}"

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.pooling import PooledFrames

        return PooledFrames(_frames(config), BINS)


def _frames(config: HfConfig) -> int:
    return config.get("pool_frames", EARLIER_FRAMES)


RAW_PIXELS, RAW_SOUNDS = RawPixels(), RawSounds()


def raw_model(kind: str) -> str:
    """The name of the raw features of a kind of input, as `--model_name` has it.

    Raises:
        BackboneError: there are none for that kind.
    """
    from pfm.backbones.family import FAMILIES
    from pfm.data.kinds import KINDS

    noun = KINDS.get(kind).storage.noun
    found = next((name for f in FAMILIES if isinstance(f, Raw) and f.noun == noun for name in f.presets), None)
    if found is None:
        raise BackboneError(f"there are no raw features of {noun}; give a backbone with --features backbone")
    return f"scratch:{found}"
