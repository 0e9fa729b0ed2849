"""The half of CLIP that sees (Radford et al., 2021, arXiv 2103.00020): a LayerNorm in front of the blocks, quick GELU.

Prompts enter behind that LayerNorm, as other tokens do that come to the blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.vit import Vit

if TYPE_CHECKING:
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import BlockShape

# of the blocks and the last LayerNorm, which SigLIP's have too
BLOCK_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^encoder\.layers\.", "layers."),
    (r"^(layers\..*)\.self_attn\.out_proj\.", r"\1.attention.o_proj."),
    (r"^(layers\..*)\.self_attn\.", r"\1.attention."),
    (r"^(layers\..*)\.layer_norm1\.", r"\1.layernorm_before."),
    (r"^(layers\..*)\.layer_norm2\.", r"\1.layernorm_after."),
    (r"^post_layernorm\.", "layernorm."),
    (r"^embeddings\.patch_embedding\.", "embeddings.patch_embeddings.projection."),
    (r"^embeddings\.position_embedding\.weight$", "embeddings.position_embeddings"),
)


def _preset(size: int, patch: int, width: int, depth: int, heads: int) -> HfConfig:
    return {"image_size": size, "patch_size": patch, "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": heads, "intermediate_size": 4 * width, "layer_norm_eps": 1e-5}  # fmt: skip


class Clip(Vit):
    """CLIP's vision model, also out of a checkpoint of both halves."""

    name = "clip_vision_model"
    title = "CLIP"
    default_model = ""
    final_norm = True
    has_patch_bias = False
    model_settings: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "clip_base_patch32_224": _preset(224, 32, 768, 12, 12),
        "clip_base_patch16_224": _preset(224, 16, 768, 12, 12),
        "clip_large_patch14_224": _preset(224, 14, 1024, 24, 16),
        "clip_large_patch14_336": _preset(336, 14, 1024, 24, 16),
    }
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *BLOCK_RENAMES,
        (r"^embeddings\.class_embedding$", "embeddings.cls_token"),
        (r"^pre_layrnorm\.", "embeddings.norm."),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="openai/clip-vit-base-patch16", preset="clip_base_patch16_224", licence="MIT (code)",
             good_at="web images; what a caption would tell apart",
             source="https://github.com/openai/CLIP/blob/main/LICENSE"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        return CLIPVisionConfig, CLIPVisionModel

    def block_shape(self, config: HfConfig) -> BlockShape:
        return dataclasses.replace(super().block_shape(config), attention_dropout=config["attention_dropout"])

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        from pfm.backbones.encoder import Embeddings

        down, across = self.grid(config)
        patches, shape = self.patch_embeddings(config), self.block_shape(config)
        return Embeddings(self.special(config), patches, down * across, shape, keys, has_norm=True)

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        token, places = "embeddings.cls_token", "embeddings.position_embeddings"
        return {**renamed, token: renamed[token].view(1, 1, -1), places: renamed[places].unsqueeze(0)}


CLIP = Clip()
