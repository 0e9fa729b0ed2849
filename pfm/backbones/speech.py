"""What wav2vec 2.0, HuBERT and WavLM share: samples through convolutions, and a transformer behind them.

Letters: D hidden size, T tokens, n samples.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from pfm.backbones.family import Family, HfConfig, Tensors
from pfm.errors import BackboneError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import BlockShape, Encoder
    from pfm.backbones.pools import Pool
    from pfm.backbones.wave_front import FrontShape
    from pfm.data.inputs import Preprocess
    from pfm.data.wave_inputs import WaveStorage

HOP = 160  # samples of a frame of `--max_length`, 10 ms at the rate of all published models
DEFAULT_LENGTH = 1000  # frames of the longest window, where nobody says: 10 s
STEP = 10  # frames that a window is a multiple of, where it is fitted to data


def speech_preset(
    width: int, depth: int, heads: int, *, norm: str = "group", is_stable: bool = False, has_bias: bool = False
) -> HfConfig:
    """A published shape; the convolutions are the same in all of them."""
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "intermediate_size": 4 * width, "feat_extract_norm": norm, "do_stable_layer_norm": is_stable,
            "conv_bias": has_bias, "layer_norm_eps": 1e-5, "max_length": DEFAULT_LENGTH}  # fmt: skip


class Speech(Family):
    """A family of samples."""

    size_option = "max_length"
    noun = "sounds"
    special_tokens = ()
    final_norm = True  # the library's; a base model has none behind its blocks
    is_ragged = True
    fits_data = True
    unneeded: ClassVar[tuple[str, ...]] = ("masked_spec_embed",)
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^feature_extractor\.conv_layers\.(\d+)\.conv\.", r"embeddings.convs.\1.conv."),
        (r"^feature_extractor\.conv_layers\.(\d+)\.layer_norm\.", r"embeddings.convs.\1.norm."),
        (r"^feature_projection\.layer_norm\.", "embeddings.feature_norm."),
        (r"^feature_projection\.projection\.", "embeddings.projection."),
        (r"^encoder\.pos_conv_embed\.conv\.", "embeddings.places."),
        (r"^encoder\.layer_norm\.", "layernorm."),
        (r"^encoder\.layers\.", "layers."),
        (r"^(layers\.\d+)\.layer_norm\.", r"\1.layernorm_before."),
        (r"^(layers\.\d+)\.final_layer_norm\.", r"\1.layernorm_after."),
        (r"^(layers\.\d+)\.attention\.out_proj\.", r"\1.attention.o_proj."),
        (r"^(layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.mlp.fc1."),
        (r"^(layers\.\d+)\.feed_forward\.output_dense\.", r"\1.mlp.fc2."),
    )

    # --- configuration --------------------------------------------------------------------------------

    def completed(self, config: HfConfig) -> HfConfig:
        for name, plain in (("add_adapter", False), ("adapter_attn_dim", None), ("conv_pos_batch_norm", False)):
            if config.get(name, plain) != plain:
                raise BackboneError(f"a {self.title} with {name}={config[name]} is not supported")
        if config["feat_extract_norm"] not in ("group", "layer"):
            raise BackboneError(f"feat_extract_norm {config['feat_extract_norm']!r} is not supported")
        lengths = {len(config[name]) for name in ("conv_dim", "conv_kernel", "conv_stride")}
        if len(lengths) != 1 or 0 in lengths:
            raise BackboneError("conv_dim, conv_kernel and conv_stride do not say as many convolutions")
        return super().completed({**config, "max_length": config.get("max_length") or DEFAULT_LENGTH})

    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        least = self.front(config).receptive
        if size * HOP < least:
            raise BackboneError(
                f"--max_length {size} is {size * HOP} samples; a frame of {model_name} is made of {least}"
            )
        return {**config, "max_length": size}

    def fitted(self, config: HfConfig, stored_shape: tuple[int, ...]) -> HfConfig:
        """The longest clip, in tenths of a second; a longer one than the window is cut into windows."""
        frames = -(-stored_shape[0] // (HOP * STEP)) * STEP
        least = -(-self.front(config).receptive // HOP)
        return {**config, "max_length": max(min(frames, config["max_length"]), least)}

    def front(self, config: HfConfig) -> FrontShape:
        """The convolutions."""
        from pfm.backbones.wave_front import FrontShape, sizes

        return FrontShape(
            channels=sizes(config["conv_dim"]),
            kernels=sizes(config["conv_kernel"]),
            strides=sizes(config["conv_stride"]),
            norm=config["feat_extract_norm"],
            has_bias=config["conv_bias"],
            activation=config["feat_extract_activation"],
            has_norm=config.get("feat_proj_layer_norm", True),
            place_kernel=config["num_conv_pos_embeddings"],
            place_groups=config["num_conv_pos_embedding_groups"],
        )

    def block_shape(self, config: HfConfig) -> BlockShape:
        from pfm.backbones.encoder import BlockShape

        return BlockShape(
            hidden_size=config["hidden_size"],
            num_heads=config["num_attention_heads"],
            intermediate_size=config["intermediate_size"],
            layer_norm_eps=config["layer_norm_eps"],
            activation=config["hidden_act"],
            dropout=config["hidden_dropout"],
            attention_dropout=config["attention_dropout"],
            norms_behind=not config["do_stable_layer_norm"],
        )

    # --- input ------------------------------------------------------------------------------------------

    def preprocess(self, config: HfConfig, processor: HfConfig, model_name: str) -> Preprocess:
        from pfm.data.wave_inputs import WavePreprocess

        if processor.get("feature_size", 1) != 1:
            raise BackboneError(f"{model_name}: sounds of {processor['feature_size']} channels are not supported")
        return WavePreprocess(
            max_samples=self.num_samples(config),
            min_samples=self.front(config).receptive,
            sampling_rate=processor.get("sampling_rate", 16_000),
            do_normalize=processor.get("do_normalize", True),
        )

    def fitted_preprocess(self, preprocess: Preprocess, config: HfConfig) -> Preprocess:
        from pfm.data.wave_inputs import WavePreprocess

        assert isinstance(preprocess, WavePreprocess)
        return dataclasses.replace(preprocess, max_samples=self.num_samples(config))

    def read_processor(self, where: str) -> HfConfig:
        from transformers.feature_extraction_utils import FeatureExtractionMixin

        return FeatureExtractionMixin.get_feature_extractor_dict(where)[0]

    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> WaveStorage:
        from pfm.data.wave_inputs import WaveStorage

        return WaveStorage(getattr(preprocess, "sampling_rate", 16_000), self.front(config).receptive)

    def num_samples(self, config: HfConfig) -> int:
        """Of the longest window."""
        return config["max_length"] * HOP

    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        return (self.num_samples(config),)

    def grid(self, config: HfConfig) -> tuple[int, int]:
        return (1, self.front(config).num_frames(self.num_samples(config)))

    def describe_size(self, config: HfConfig) -> str:
        return f"{config['max_length'] * HOP / 16_000:g} s"

    # --- modules ----------------------------------------------------------------------------------------

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.dropout import RowKeys

        return self.embeddings(config, RowKeys())

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        from pfm.backbones.wave_front import WaveEmbeddings

        return WaveEmbeddings(self.front(config), self.block_shape(config), keys)

    def encoder(self, config: HfConfig) -> Encoder:
        from torch import nn

        encoder = super().encoder(config)
        if not config["do_stable_layer_norm"]:
            encoder.layernorm = nn.Identity()  # the last block ends with one
        return encoder

    def can_leave_norm(self, config: HfConfig) -> bool:
        return config["do_stable_layer_norm"]

    def pool(self, config: HfConfig) -> Pool | None:
        from pfm.backbones.pools import FramePool

        return FramePool(num_special=0)

    def patch_values(self, config: HfConfig) -> int:
        return self.front(config).receptive

    def embedding_multiply_adds(self, config: HfConfig) -> float:
        return self.front(config).multiply_adds(self.num_samples(config), config["hidden_size"])

    def feature_size(self, config: HfConfig, which: str) -> int:
        return config["hidden_size"]

    def features(self, summary: torch.Tensor, patches: torch.Tensor, which: str) -> torch.Tensor:
        """(B, D): the mean of the frames, whichever is asked for, normalised per sample."""
        del patches, which  # the frames behind the end of a clip are among them
        from torch.nn import functional as F

        return F.layer_norm(summary[:, 0], summary.shape[-1:])

    # --- weights ----------------------------------------------------------------------------------------

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        place = "embeddings.places."
        for magnitude, direction in (
            ("parametrizations.weight.original0", "parametrizations.weight.original1"),
            ("weight_g", "weight_v"),  # of older files
        ):
            if place + magnitude in renamed:
                from pfm.backbones.wave_front import plain_weight

                parts = renamed.pop(place + magnitude), renamed.pop(place + direction)
                renamed[f"{place}weight"] = plain_weight(*parts).contiguous()
        # one LayerNorm, which stands in front of the blocks or behind them: the encoder takes what it has
        for leaf in ("weight", "bias"):
            renamed[f"embeddings.norm.{leaf}"] = renamed[f"layernorm.{leaf}"]
            # where channels are normalised over time, the first convolution's
            if (first := f"embeddings.convs.0.norm.{leaf}") in renamed:
                renamed[f"embeddings.convs.0.over_time.{leaf}"] = renamed[first]
        return renamed

    def config_of(self, weights: Tensors) -> HfConfig | None:
        del weights
        return None

    def assumption(self) -> str:
        return "samples normalised clip by clip"
