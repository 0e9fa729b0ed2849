"""ViT (Dosovitskiy et al., 2021, arXiv 2010.11929): square images cut into square patches, one CLS token.

What `--help` lists of a family is read without torch, so the parts are imported where they are built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, Family, HfConfig, Tensors
from pfm.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from pfm.data.images import ImageStorage
    from pfm.data.inputs import Preprocess

PAPER_MODEL = "google/vit-base-patch16-224"
# of transformers 4, and of some models of 5: patterns of names in an attention, and what they are now
OLDER_ATTENTION = (
    (r"\.attention\.attention\.query\b", ".attention.q_proj"),
    (r"\.attention\.attention\.key\b", ".attention.k_proj"),
    (r"\.attention\.attention\.value\b", ".attention.v_proj"),
    (r"\.attention\.output\.dense\b", ".attention.o_proj"),
)


class Vit(Family):
    """ViT; the `_patch16_224` presets have the shapes of timm's models of that name."""

    name = "vit"
    title = "ViT"
    default_model = PAPER_MODEL
    size_option = "image_size"
    noun = "images"
    has_patch_bias: ClassVar[bool] = True
    final_norm = False  # as in the paper
    model_settings: ClassVar[Mapping[str, Any]] = {"add_pooling_layer": False}
    presets: ClassVar[Mapping[str, HfConfig]] = {
        "vit_digits": {"image_size": 8, "patch_size": 4, "hidden_size": 64, "num_hidden_layers": 2,
                       "num_attention_heads": 4, "intermediate_size": 256, "hidden_dropout_prob": 0.2},
        "vit_mini": {"image_size": 32, "patch_size": 8, "hidden_size": 96, "num_hidden_layers": 4,
                     "num_attention_heads": 4, "intermediate_size": 384},
        "vit_tiny_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 192, "num_hidden_layers": 12,
                                 "num_attention_heads": 3, "intermediate_size": 768},
        "vit_small_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 384, "num_hidden_layers": 12,
                                  "num_attention_heads": 6, "intermediate_size": 1536},
        "vit_base_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12,
                                 "num_attention_heads": 12, "intermediate_size": 3072},
        "vit_large_patch16_224": {"image_size": 224, "patch_size": 16, "hidden_size": 1024, "num_hidden_layers": 24,
                                  "num_attention_heads": 16, "intermediate_size": 4096},
        "vit_huge_patch14_224": {"image_size": 224, "patch_size": 14, "hidden_size": 1280, "num_hidden_layers": 32,
                                 "num_attention_heads": 16, "intermediate_size": 5120},
    }  # fmt: skip

    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name=PAPER_MODEL, preset="vit_base_patch16_224", licence="Apache-2.0",
             good_at="photographs; the paper's backbone",
             source="https://huggingface.co/google/vit-base-patch16-224/commits/main/flax_model.msgpack"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        from transformers import ViTConfig, ViTModel

        return ViTConfig, ViTModel

    def resize(self, config: HfConfig, size: int, model_name: str) -> HfConfig:
        patch = config["patch_size"]
        if size % patch and size != config["image_size"]:  # SigLIP's 384 in patches of 14 leaves a rim out
            below, above = size // patch * patch, (size // patch + 1) * patch
            near = f"{below} and {above} are" if below else f"{above} is"
            raise BackboneError(
                f"--image_size {size} is not a multiple of the patch size {patch} of {model_name}; {near}"
            )
        return {**config, "image_size": size}

    def preprocess(self, config: HfConfig, processor: HfConfig, model_name: str) -> Preprocess:
        from pfm.data.images import preprocess_from_hf

        return preprocess_from_hf(dict(processor), config["image_size"])

    def read_processor(self, where: str) -> HfConfig:
        from transformers.image_processing_base import ImageProcessingMixin

        return ImageProcessingMixin.get_image_processor_dict(where)[0]

    def storage(self, config: HfConfig, preprocess: Preprocess | None) -> ImageStorage:
        from pfm.data.images import ImageStorage

        known = preprocess.storage if preprocess is not None else None
        return known if isinstance(known, ImageStorage) else ImageStorage(config["image_size"])

    def input_shape(self, config: HfConfig) -> tuple[int, ...]:
        return (config.get("num_channels", 3), config["image_size"], config["image_size"])

    def grid(self, config: HfConfig) -> tuple[int, int]:
        side = config["image_size"] // config["patch_size"]
        return side, side

    def describe_size(self, config: HfConfig) -> str:
        return f"{config['image_size']} px"

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.patches import ImagePatches

        return ImagePatches(
            config.get("num_channels", 3), config["hidden_size"], config["patch_size"], has_bias=self.has_patch_bias
        )

    def patch_values(self, config: HfConfig) -> int:
        return config.get("num_channels", 3) * config["patch_size"] ** 2

    def initial_weights(self, config: HfConfig) -> Tensors:
        if type(self) is not Vit:  # a family like this one, which the library may initialise in another way
            return super().initial_weights(config)
        from pfm.backbones.initial import drawn_weights

        return drawn_weights(self, config, draws_tokens=True)

    def completed(self, config: HfConfig) -> HfConfig:
        sides = {name: _one_side(config[name]) for name in ("image_size", "patch_size") if name in config}
        if None in sides.values():
            raise BackboneError(f"images and patches that are not square are not supported ({config})")
        return {**config, **sides}

    def config_of(self, weights: Tensors) -> HfConfig | None:
        if type(self) is not Vit or "embeddings.distillation_token" in weights:
            return None
        patch = weights["embeddings.patch_embeddings.projection.weight"].shape[-1]
        places = weights["embeddings.position_embeddings"].shape[1]
        return {"image_size": math.isqrt(places - 1) * patch}

    def assumption(self) -> str:
        return f"pixels normalised with mean and std 0.5, as {PAPER_MODEL} has it"


def _one_side(side: int | list[int] | tuple[int, ...]) -> int | None:
    """Of a square, which configurations give as one number or as two; None where it is not square."""
    if isinstance(side, int):
        return side
    return side[0] if len(set(side)) == 1 else None


VIT = Vit()
