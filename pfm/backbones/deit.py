"""DeiT (Touvron et al., 2021, arXiv 2012.12877): a ViT with a distillation token behind CLS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pfm.backbones.family import Card, HfConfig
from pfm.backbones.vit import Vit


def _preset(width: int, heads: int) -> HfConfig:
    return {"image_size": 224, "patch_size": 16, "hidden_size": width, "num_hidden_layers": 12,
            "num_attention_heads": heads, "intermediate_size": 4 * width}  # fmt: skip


class Deit(Vit):
    """DeiT with its distillation token; those without one are ViTs by their configuration."""

    name = "deit"
    title = "DeiT"
    default_model = ""
    final_norm = True
    special_tokens = ("cls_token", "distillation_token")
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "deit_tiny_patch16_224": _preset(192, 3),
        "deit_small_patch16_224": _preset(384, 6),
        "deit_base_patch16_224": _preset(768, 12),
    }
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="facebook/deit-base-distilled-patch16-224", preset="deit_base_patch16_224",
             licence="Apache-2.0", good_at="photographs, trained on ImageNet-1k alone",
             source="https://huggingface.co/facebook/deit-base-distilled-patch16-224/commits/ea2cf46b3d9c8865fe1de652bf26f3de547298dd"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import DeiTConfig, DeiTModel

        return DeiTConfig, DeiTModel


DEIT = Deit()
