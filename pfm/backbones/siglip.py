"""The half of SigLIP that sees (Zhai et al., 2023, arXiv 2303.15343), and SigLIP 2 (Tschannen et al., 2502.14786).

There is no CLS: an attention head of its own sums the patches up, or their mean does in a model without that head.
SigLIP 2 at a fixed size has SigLIP's configuration. The form for any aspect ratio (NaFlex) takes flattened patches; it
is run here on squares, and its first layer is read as the convolution that it is.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.clip import BLOCK_RENAMES
from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.vit import Vit

if TYPE_CHECKING:
    from pfm.backbones.encoder import BlockShape
    from pfm.backbones.pools import Pool


def _shape(width: int, depth: int, heads: int, hidden: int) -> HfConfig:
    return {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "intermediate_size": hidden}  # fmt: skip


_BASE, _LARGE = _shape(768, 12, 12, 3072), _shape(1024, 24, 16, 4096)
_SO400M = _shape(1152, 27, 16, 4304)


class Siglip(Vit):
    """SigLIP's vision model and that of SigLIP 2 at a fixed size, also out of a checkpoint of both halves."""

    name = "siglip_vision_model"
    title = "SigLIP"
    default_model = ""
    final_norm = True
    special_tokens = ()
    model_settings: ClassVar[Mapping[str, Any]] = {}
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "siglip_base_patch16_224": {"image_size": 224, "patch_size": 16, **_BASE},
        "siglip_large_patch16_256": {"image_size": 256, "patch_size": 16, **_LARGE},
        "siglip_so400m_patch14_224": {"image_size": 224, "patch_size": 14, **_SO400M},
        "siglip2_base_patch16_224": {"image_size": 224, "patch_size": 16, **_BASE},
        "siglip2_large_patch16_256": {"image_size": 256, "patch_size": 16, **_LARGE},
        "siglip2_so400m_patch16_256": {"image_size": 256, "patch_size": 16, **_SO400M},
    }
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        *BLOCK_RENAMES,
        (r"^head\.attention\.out_proj\.", "pool.o_proj."),
        (r"^head\.", "pool."),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="google/siglip-base-patch16-224", preset="siglip_base_patch16_224", licence="Apache-2.0",
             good_at="web images; what a caption would tell apart",
             source="https://huggingface.co/google/siglip-base-patch16-224/commits/refs%2Fpr%2F2/README.md"),
        Card(model_name="google/siglip2-base-patch16-224", preset="siglip2_base_patch16_224", licence="Apache-2.0",
             good_at="as SigLIP, and better where things are in the image",
             source="https://huggingface.co/google/siglip2-base-patch16-224/commits/main/config.json"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        return SiglipVisionConfig, SiglipVisionModel

    def block_shape(self, config: HfConfig) -> BlockShape:
        return dataclasses.replace(super().block_shape(config), attention_dropout=config["attention_dropout"])

    def pool(self, config: HfConfig) -> Pool | None:
        from pfm.backbones.pools import AttentionPool, MeanPool

        return AttentionPool(self.block_shape(config)) if config.get("vision_use_head", True) else MeanPool(0)

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        places = "embeddings.position_embeddings"
        renamed[places] = renamed[places].unsqueeze(0)
        for kind in ("weight", "bias"):  # of query, key and value in one
            joined = renamed.pop(f"pool.attention.in_proj_{kind}", None)
            if joined is not None:
                for name, part in zip("qkv", joined.chunk(3), strict=True):
                    renamed[f"pool.{name}_proj.{kind}"] = part.clone()
        return renamed


class Siglip2(Siglip):
    """SigLIP 2 for any aspect ratio (NaFlex), at the square that its number of patches makes."""

    name = "siglip2_vision_model"
    title = "SigLIP 2 NaFlex"
    interpolation = ("bilinear", True)
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "siglip2_base_patch16_naflex": {"num_patches": 256, "patch_size": 16, **_BASE},
    }
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="google/siglip2-base-patch16-naflex", preset="siglip2_base_patch16_naflex",
             licence="Apache-2.0", good_at="as SigLIP 2; documents, once aspect ratios are kept",
             source="https://huggingface.co/google/siglip2-base-patch16-naflex/tree/main"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import Siglip2VisionConfig, Siglip2VisionModel

        return Siglip2VisionConfig, Siglip2VisionModel

    def completed(self, config: HfConfig) -> HfConfig:
        own = math.isqrt(config["num_patches"]) * config["patch_size"]
        return super().completed({"image_size": own, **config})

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        name = "embeddings.patch_embeddings.projection.weight"
        if renamed[name].ndim == 2:  # (D, p·p·3), colours last
            patch = math.isqrt(renamed[name].shape[1] // 3)
            renamed[name] = renamed[name].unflatten(1, (patch, patch, 3)).permute(0, 3, 1, 2).contiguous()
        return renamed


SIGLIP = Siglip()
SIGLIP2 = Siglip2()
