"""DINOv3 ViT (Siméoni et al., 2025, arXiv 2508.10104): registers, LayerScale, and rotary positions of patches alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.vit import Vit
from pfm.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import Block, BlockShape


def _preset(width: int, depth: int, heads: int, hidden: int, *, is_gated: bool = False) -> HfConfig:
    return {"image_size": 224, "patch_size": 16, "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": heads, "intermediate_size": hidden, "use_gated_mlp": is_gated,
            "hidden_act": "silu" if is_gated else "gelu", "num_register_tokens": 4, "layer_norm_eps": 1e-5}  # fmt: skip


class Dinov3(Vit):
    """DINOv3's ViTs; its ConvNeXts are another family."""

    name = "dinov3_vit"
    title = "DINOv3"
    default_model = ""
    final_norm = True
    model_settings: ClassVar[Mapping[str, Any]] = {}
    special_tokens = ("cls_token", "register_tokens")
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "dinov3_small_patch16_224": _preset(384, 12, 6, 1536),
        "dinov3_small_plus_patch16_224": _preset(384, 12, 6, 1536, is_gated=True),
        "dinov3_base_patch16_224": _preset(768, 12, 12, 3072),
        "dinov3_large_patch16_224": _preset(1024, 24, 16, 4096),
        "dinov3_huge_plus_patch16_224": _preset(1280, 32, 20, 5120, is_gated=True),
    }
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^(?:model\.)?layer\.", "layers."),
        (r"^norm\.", "layernorm."),
        (r"^embeddings\.patch_embeddings\.(weight|bias)$", r"embeddings.patch_embeddings.projection.\1"),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.layer_scale1\.lambda1$", ".scale_attention"),
        (r"\.layer_scale2\.lambda1$", ".scale_mlp"),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/dinov3-vitb16-pretrain-lvd1689m", preset="dinov3_base_patch16_224",
             licence="DINOv3 License", is_gated=True, good_at="frozen features, also of larger images",
             source="https://huggingface.co/facebook/dinov3-vitl16-pretrain-lvd1689m/blob/main/LICENSE.md"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import DINOv3ViTConfig, DINOv3ViTModel

        return DINOv3ViTConfig, DINOv3ViTModel

    def completed(self, config: HfConfig) -> HfConfig:
        if not (config["query_bias"] and config["value_bias"] and config["proj_bias"] and config["mlp_bias"]):
            raise BackboneError("a DINOv3 without biases other than the keys' is not supported")
        return super().completed(config)

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        if any(".mlp.gate_proj." in name for name in renamed):
            return renamed
        fc1, fc2 = (".mlp.up_proj.", ".mlp.fc1."), (".mlp.down_proj.", ".mlp.fc2.")
        return {name.replace(*fc1).replace(*fc2): tensor for name, tensor in renamed.items()}

    def special(self, config: HfConfig) -> Mapping[str, int]:
        registers = config["num_register_tokens"]
        return {"cls_token": 1, **({"register_tokens": registers} if registers else {})}

    def block_shape(self, config: HfConfig) -> BlockShape:
        shape = super().block_shape(config)
        return dataclasses.replace(
            shape,
            key_bias=config["key_bias"],
            has_scales=True,
            is_gated=config.get("use_gated_mlp", False),
            attention_dropout=config["attention_dropout"],
        )

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        from pfm.backbones.encoder import Embeddings

        down, across = self.grid(config)
        patches, shape = self.patch_embeddings(config), self.block_shape(config)
        return Embeddings(self.special(config), patches, down * across, shape, keys, has_positions=False)

    def block(self, config: HfConfig, number: int, keys: RowKeys) -> Block:
        from pfm.backbones.encoder import Block
        from pfm.backbones.rotary import Rotary

        head_dim = config["hidden_size"] // config["num_attention_heads"]
        rotary = Rotary(self.num_special(config), self.grid(config), head_dim, config["rope_theta"])
        return Block(self.block_shape(config), number, keys, rotary)


DINOV3 = Dinov3()
