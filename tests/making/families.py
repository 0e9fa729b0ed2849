"""Small random models of every family, saved as the library saves them, and what the library computes of them.

Letters: B batch, T tokens, D hidden size, S pixels of the side.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HIDDEN: dict[str, Any] = {"intermediate_size": 48}
Outputs = tuple[torch.Tensor, torch.Tensor]  # (B, T, D) through the final LayerNorm, and the summary (B, D)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """The same but for float32 rounding."""
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def cls_outputs(model: Any, pixels: torch.Tensor, **more: Any) -> Outputs:
    outputs = model(pixels, **more)
    return outputs.last_hidden_state, outputs.last_hidden_state[:, 0]


def _plain(model: Any, pixels: torch.Tensor) -> Outputs:
    return cls_outputs(model, pixels)


def _interpolated(model: Any, pixels: torch.Tensor) -> Outputs:
    return cls_outputs(model, pixels, interpolate_pos_encoding=True)


def _clip(model: Any, pixels: torch.Tensor) -> Outputs:
    outputs = model(pixels, interpolate_pos_encoding=True)
    return model.post_layernorm(outputs.last_hidden_state), outputs.pooler_output


def _siglip(model: Any, pixels: torch.Tensor) -> Outputs:
    outputs = model(pixels, interpolate_pos_encoding=True)
    summary = outputs.pooler_output
    return outputs.last_hidden_state, outputs.last_hidden_state.mean(dim=1) if summary is None else summary


def _naflex(model: Any, pixels: torch.Tensor) -> Outputs:
    """The library takes flattened patches, colours last, and how many there are down and across."""
    patch, side = model.config.patch_size, pixels.shape[-1] // model.config.patch_size
    cut = pixels.unflatten(3, (side, patch)).unflatten(2, (side, patch))  # (B, 3, side, patch, side, patch)
    flat = cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (B, side², patch·patch·3)
    shapes = torch.tensor([[side, side]] * len(pixels))
    outputs = model(flat, torch.ones(flat.shape[:2], dtype=torch.long), shapes)
    return outputs.last_hidden_state, outputs.pooler_output


@dataclass(frozen=True)
class Case:
    """A small model of a family.

    Attributes:
        config: name of the library's configuration class.
        model: name of its model class.
        forward: the library's own outputs for pixels (B, 3, S, S).
        values: of the configuration.
        size: S.
        other: another S.
    """

    config: str
    model: str
    forward: Callable[[Any, torch.Tensor], Outputs]
    values: dict[str, Any] = field(default_factory=dict)
    size: int = 16
    other: int = 24

    def make(self, folder: Path) -> Any:
        """The library's model, saved in a folder."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**{**SHAPE, **self.values})
        model = getattr(transformers, self.model)(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tensor in model.parameters():  # so that biases, scales and tokens count
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
        model.save_pretrained(folder)
        return model


_SQUARE: dict[str, Any] = {"image_size": 16, "patch_size": 4}
CASES: dict[str, Case] = {
    "vit": Case("ViTConfig", "ViTModel", _interpolated, {**_SQUARE, **HIDDEN}),
    "deit": Case("DeiTConfig", "DeiTModel", _interpolated, {**_SQUARE, **HIDDEN}),
    "dinov2": Case("Dinov2Config", "Dinov2Model", _plain, {**_SQUARE, "mlp_ratio": 2, "layerscale_value": 0.5}),
    "dinov2_with_registers": Case(
        "Dinov2WithRegistersConfig", "Dinov2WithRegistersModel", _plain,
        {**_SQUARE, "mlp_ratio": 2, "use_swiglu_ffn": True, "num_register_tokens": 3},
    ),
    "dinov3_vit": Case(
        "DINOv3ViTConfig", "DINOv3ViTModel", _plain,
        {**_SQUARE, **HIDDEN, "num_register_tokens": 2, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "clip_vision_model": Case("CLIPVisionConfig", "CLIPVisionModel", _clip, {**_SQUARE, **HIDDEN}),
    "siglip_vision_model": Case("SiglipVisionConfig", "SiglipVisionModel", _siglip, {**_SQUARE, **HIDDEN}),
    "siglip2_vision_model": Case(
        "Siglip2VisionConfig", "Siglip2VisionModel", _naflex, {"patch_size": 4, "num_patches": 16, **HIDDEN}
    ),
}  # fmt: skip
# variants of the same families, for the slow matrix
MORE: dict[str, Case] = {
    "dinov2-swiglu": Case(
        "Dinov2Config", "Dinov2Model", _plain, {**_SQUARE, "mlp_ratio": 2, "use_swiglu_ffn": True, "qkv_bias": False}
    ),
    "dinov3-plain": Case(
        "DINOv3ViTConfig", "DINOv3ViTModel", _plain, {**_SQUARE, **HIDDEN, "num_register_tokens": 0, "key_bias": True}
    ),
    "siglip-mean": Case(
        "SiglipVisionConfig", "SiglipVisionModel", _siglip, {**_SQUARE, **HIDDEN, "vision_use_head": False}
    ),
    "siglip-rim": Case("SiglipVisionConfig", "SiglipVisionModel", _siglip, {**_SQUARE, "image_size": 18, **HIDDEN}, 18),
}


@dataclass(frozen=True)
class TimmCase:
    """A small model of timm's.

    Attributes:
        architecture: timm's name.
        values: arguments that make it small.
        said: what `model_args` hold beside the size.
    """

    architecture: str
    values: dict[str, Any]
    said: dict[str, Any] = field(default_factory=dict)


_SMALL: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 48, "depth": 2, "num_classes": 0}
TIMM_CASES: dict[str, TimmCase] = {
    "vit": TimmCase("vit_tiny_patch16_224", _SMALL),
    "uni": TimmCase("vit_base_patch16_224", {**_SMALL, "init_values": 1e-5}),
    "registers": TimmCase("vit_base_patch14_reg4_dinov2", _SMALL),
    "swiglu": TimmCase("vit_giant_patch14_reg4_dinov2", {**_SMALL, "num_heads": 4}),
    "clip": TimmCase("vit_base_patch16_clip_quickgelu_224", _SMALL),
    "siglip": TimmCase("vit_base_patch16_siglip_224", _SMALL),
    "siglip2": TimmCase("vit_so400m_patch16_siglip_256", _SMALL),
    "gap": TimmCase("vit_base_patch16_siglip_gap_224", _SMALL),
    "mean": TimmCase("vit_base_patch16_224", {**_SMALL, "global_pool": "avg"}),
    "deit": TimmCase("deit_small_distilled_patch16_224", _SMALL),
    "deit3": TimmCase("deit3_small_patch16_224", _SMALL),
}
