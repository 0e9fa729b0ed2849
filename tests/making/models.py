"""Tiny real models: two blocks, width 32, made on the spot."""

from typing import Any

import torch

from pfm.backbones.ast import AST
from pfm.backbones.backbone import Backbone
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec
from pfm.classes import ClassList
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings, ModelConfig

NAMES = ("red", "green", "blue", "grey")
TINY = {
    "image_size": 8,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-6,
}
TINY_AST: dict[str, Any] = {
    "model_type": AST.name,
    "max_length": 32,
    "num_mel_bins": 16,
    "patch_size": 8,
    "frequency_stride": 8,
    "time_stride": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


def tiny_spec(**changes: Any) -> BackboneSpec:
    return BackboneSpec("scratch:vit_digits", {**TINY, **changes})


def tiny_ast_spec(**changes: Any) -> BackboneSpec:
    """Sounds of 32 frames of 16 mel bins, in 2 x 4 patches."""
    return BackboneSpec("scratch:ast_mini", {**TINY_AST, "layer_norm_eps": 1e-6, **changes})


def tiny_backbone(**changes: Any) -> Backbone:
    """Two blocks, width 32, on 2 x 2 patches; weights large enough that outputs differ."""
    return spread_out(build_backbone(tiny_spec(**changes), seed=1))


def tiny_ast_backbone() -> Backbone:
    """The same for sounds."""
    return spread_out(build_backbone(tiny_ast_spec(), seed=1))


def spread_out(backbone: Backbone) -> Backbone:
    """With noise on every weight."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for tensor in backbone.parameters():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return backbone


def tiny_model(
    *, num_classes: int = 4, lora: LoraSettings | None = None, backbone: Backbone | None = None, **changes: Any
) -> PromptedClassifier:
    torch.manual_seed(3)
    names = NAMES[:num_classes] if num_classes <= len(NAMES) else [f"class{i}" for i in range(num_classes)]
    model = PromptedClassifier(
        backbone or tiny_backbone(), ClassList.from_names(list(names)), ModelConfig(**changes), lora
    )
    for name, tensor in model.named_parameters():
        if "lora_B" in name:  # starts at zero, which would hide a missing merge
            torch.nn.init.normal_(tensor, std=0.3)
    return model.eval()
