"""DINOv2 (Oquab et al., 2023, arXiv 2304.07193), also with registers (Darcet et al., 2023, arXiv 2309.16588).

A ViT of patch 14 with LayerScale, whose giant has a gated MLP. Registers are special tokens behind CLS that have no
position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.vit import OLDER_ATTENTION, Vit

if TYPE_CHECKING:
    from pfm.backbones.encoder import BlockShape


def _presets(prefix: str, **more: int) -> Mapping[str, HfConfig]:
    shapes = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16), "giant": (1536, 40, 24)}
    return {
        f"{prefix}_{size}_patch14_224": {
            "image_size": 224, "patch_size": 14, "hidden_size": width, "num_hidden_layers": depth,
            "num_attention_heads": heads, "mlp_ratio": 4, "use_swiglu_ffn": size == "giant", **more,
        }
        for size, (width, depth, heads) in shapes.items()
    }  # fmt: skip


class Dinov2(Vit):
    """DINOv2 as Hugging Face has it."""

    name = "dinov2"
    title = "DINOv2"
    default_model = ""
    final_norm = True
    model_settings: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, HfConfig]] = _presets("dinov2")
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^encoder\.layer\.", "layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.layer_scale1\.lambda1$", ".scale_attention"),
        (r"\.layer_scale2\.lambda1$", ".scale_mlp"),
        *OLDER_ATTENTION,  # until 5.17 at least, and so the next one
        (r"\.mlp\.weights_out\.", ".mlp.down_proj."),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/dinov2-base", preset="dinov2_base_patch14_224", licence="Apache-2.0",
             good_at="frozen features of any image; few samples a class",
             source="https://huggingface.co/facebook/dinov2-base/commit/369b1309d0ea32e09fdc25ee029917e2e5a2db8f"),
        Card(model_name="microsoft/rad-dino", preset="dinov2_base_patch14_224", licence="MIT",
             good_at="chest X-rays",
             source="https://huggingface.co/microsoft/rad-dino/tree/main"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import Dinov2Config, Dinov2Model

        return Dinov2Config, Dinov2Model

    def names(self, weights: Tensors) -> Tensors:
        """Likewise; a gated MLP whose two factors are one matrix, as until 5.17 at least, has them apart."""
        renamed = super().names(weights)
        for name in [name for name in renamed if ".mlp.weights_in." in name]:
            gate, up = renamed.pop(name).chunk(2)
            renamed[name.replace("weights_in", "gate_proj")] = gate
            renamed[name.replace("weights_in", "up_proj")] = up
        return renamed

    def block_shape(self, config: HfConfig) -> BlockShape:
        width = int(config["hidden_size"] * config["mlp_ratio"])
        is_gated = config.get("use_swiglu_ffn", False)
        gated = {"intermediate_size": (int(width * 2 / 3) + 7) // 8 * 8, "hidden_act": "silu"}
        shape = super().block_shape({**config, "intermediate_size": width, **(gated if is_gated else {})})
        return dataclasses.replace(shape, has_scales=True, is_gated=is_gated)


class Dinov2Registers(Dinov2):
    """DINOv2 with registers."""

    name = "dinov2_with_registers"
    title = "DINOv2 with registers"
    special_tokens = ("cls_token", "register_tokens")
    interpolation = ("bicubic", True)
    presets: ClassVar[Mapping[str, HfConfig]] = _presets("dinov2_reg", num_register_tokens=4)
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/dinov2-with-registers-base", preset="dinov2_reg_base_patch14_224",
             licence="Apache-2.0", good_at="as DINOv2, with cleaner patches",
             source="https://huggingface.co/facebook/dinov2-with-registers-base/raw/main/README.md"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

        return Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    def special(self, config: HfConfig) -> Mapping[str, int]:
        return {"cls_token": 1, "register_tokens": config["num_register_tokens"]}

    def num_placed(self, config: HfConfig) -> int:
        return 1


DINOV2 = Dinov2()
DINOV2_REGISTERS = Dinov2Registers()
