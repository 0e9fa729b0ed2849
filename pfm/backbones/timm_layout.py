"""ViTs in timm's layout: `config.json` with an `architecture`, weights under timm's names. timm itself is not needed.

Most of what a model is made of shows in the shapes and names of its weights: width, depth, LayerScale, registers, a
gated MLP, a LayerNorm in front of the blocks, an attention pool. What does not show (heads, activation) is timm's by
the architecture's name, unless `model_args` say otherwise. A file with weights that mean nothing here is refused.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pfm.backbones.family import Card, HfConfig, Tensors
from pfm.backbones.vit import Vit
from pfm.errors import BackboneError

if TYPE_CHECKING:
    from torch import nn

    from pfm.backbones.dropout import RowKeys
    from pfm.backbones.encoder import BlockShape
    from pfm.backbones.pools import Pool

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_KNOWN = re.compile(r"^(vit|deit3?|flexivit)_")
# they share names of weights with the others and compute something else
_OTHERS = re.compile(r"_(rpn|diff|rope|relpos|srelpos|xp|dpn)_|_r\d+_|dinov3|_eva")
# heads by the word that says the size, from timm's definitions; more than one word: the first that is in the name
_HEADS = {
    "base_patch16_gap": 16, "base_patch16_plus": 14, "base_patch32_plus": 14, "giant_patch14_dinov2": 24,
    "giant_patch14_reg4_dinov2": 24, "giant_patch14_reg1_tipsv2": 24, "giantopt": 16, "gigantic": 16, "giant": 16,
    "huge": 16, "so400m": 16, "large": 16, "betwixt": 10, "base": 12, "mediumd": 8, "medium": 8, "xsmall": 4,
    "small": 6, "wee": 4, "tiny": 3,
}  # fmt: skip
_TANH = re.compile(r"base_patch32_siglip|large_patch16_siglip_(gap_)?512|so400m_patch16_siglip|giantopt_patch16_siglip")
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu", "silu": "silu"}
_NOT_OURS = re.compile(r"^(head|head_dist|pre_logits)\.|^mask_token$")  # classifiers and what training alone needs


class Timm(Vit):
    """timm's `vit_*`, `deit*`, DINOv2 and `vit_*_siglip`, and models that others trained in these architectures."""

    name = "timm"
    title = "timm ViT"
    default_model = ""
    final_norm = True
    interpolation = ("bicubic", True)
    presets: ClassVar[Mapping[str, HfConfig]] = {}
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        (r"^blocks\.", "layers."),
        (r"^(layers\.\d+)\.norm1\.", r"\1.layernorm_before."),
        (r"^(layers\.\d+)\.norm2\.", r"\1.layernorm_after."),
        (r"^(layers\.\d+)\.attn\.proj\.", r"\1.attention.o_proj."),
        (r"^(layers\.\d+)\.attn\.", r"\1.attention."),
        (r"^(layers\.\d+)\.ls1\.gamma$", r"\1.scale_attention"),
        (r"^(layers\.\d+)\.ls2\.gamma$", r"\1.scale_mlp"),
        (r"^(fc_)?norm\.", "layernorm."),
        (r"^norm_pre\.", "embeddings.norm."),
        (r"^pos_embed$", "embeddings.position_embeddings"),
        (r"^(cls|dist|reg)_token$", r"embeddings.\1_token"),
        (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
        (r"^attn_pool\.latent$", "pool.probe"),
        (r"^attn_pool\.q\.", "pool.q_proj."),
        (r"^attn_pool\.proj\.", "pool.o_proj."),
        (r"^attn_pool\.norm\.", "pool.layernorm."),
        (r"^attn_pool\.", "pool."),
    )
    cards: ClassVar[tuple[Card, ...]] = (
        Card(model_name="timm/vit_base_patch16_224.augreg2_in21k_ft_in1k", preset="vit_base_patch16_224",
             licence="Apache-2.0", good_at="photographs",
             source="https://huggingface.co/timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/discussions"),
        Card(model_name="timm/vit_base_patch14_reg4_dinov2.lvd142m", preset="dinov2_reg_base_patch14_224",
             licence="Apache-2.0", good_at="as DINOv2",
             source="https://huggingface.co/timm/vit_base_patch14_reg4_dinov2.lvd142m/commits/main/.gitattributes"),
        Card(model_name="MahmoodLab/UNI", preset="vit_large_patch16_224", licence="CC-BY-NC-ND-4.0", is_gated=True,
             good_at="tissue under the microscope (H&E)",
             source="https://github.com/yinboliu-git/MoEST/blob/main/model/UNI/README.md"),
        Card(model_name="paige-ai/Virchow", preset="vit_huge_patch14_224", licence="Apache-2.0", is_gated=True,
             good_at="tissue under the microscope (H&E)",
             source="https://huggingface.co/paige-ai/Virchow/blob/main/README.md"),
    )  # fmt: skip

    def hf_classes(self) -> tuple[Any, Any]:
        raise BackboneError("a model in timm's layout has no class in transformers")

    def architecture(self, config: HfConfig) -> str:
        return config["architecture"]

    # --- files ------------------------------------------------------------------------------------------

    def owns(self, raw: Mapping[str, Any]) -> bool:
        return "architecture" in raw and "model_type" not in raw

    def read_layout(self, name: str, raw: Mapping[str, Any], commit: str = "") -> tuple[HfConfig, HfConfig]:
        try:
            stored = timm_config(raw, self._tensors(name, commit), name)
            cfg = raw.get("pretrained_cfg", raw)
            size = raw.get("model_args", {}).get("img_size") or cfg.get("input_size", (3, stored["image_size"]))[-1]
            return {**stored, "image_size": size}, _processor(cfg, size)
        except (AttributeError, IndexError, TypeError, ValueError, ArithmeticError) as error:
            raise BackboneError(f"{name}: its config.json is not one of timm's ({error})") from error

    def read_weights(self, name: str, commit: str = "") -> tuple[HfConfig, Tensors] | None:
        from pfm.backbones.hub import read_raw_config

        weights = self._tensors(name, commit)
        return timm_config(read_raw_config(name, commit), weights, name), weights

    def _tensors(self, name: str, commit: str) -> Tensors:
        """Weights in float32, under timm's names."""
        from pfm.backbones.hub import first_sentence, hub_file, read_tensors

        path = next((path for file in WEIGHT_FILES if (path := hub_file(name, file, commit)) is not None), None)
        if path is None:
            raise BackboneError(f"{name} has no weights; one of {', '.join(WEIGHT_FILES)} is expected")
        try:
            weights = read_tensors(path)
        except Exception as error:  # safetensors, pickle and zip each raise their own
            raise BackboneError(f"cannot load the weights of {name!r}: {first_sentence(error)}") from error
        return {key: tensor.float() for key, tensor in weights.items() if not _NOT_OURS.search(key)}

    # --- parts ------------------------------------------------------------------------------------------

    def special(self, config: HfConfig) -> Mapping[str, int]:
        return config["special_tokens"]

    def num_placed(self, config: HfConfig) -> int:
        return self.num_special(config) if config["places_special"] else 0

    def block_shape(self, config: HfConfig) -> BlockShape:
        shape = super().block_shape(config)
        return dataclasses.replace(shape, has_scales=config["has_scales"], is_gated=config["is_gated"])

    def patch_embeddings(self, config: HfConfig) -> nn.Module:
        from pfm.backbones.patches import ImagePatches

        has_bias = config["has_patch_bias"]
        return ImagePatches(config["num_channels"], config["hidden_size"], config["patch_size"], has_bias=has_bias)

    def embeddings(self, config: HfConfig, keys: RowKeys) -> nn.Module:
        from pfm.backbones.encoder import Embeddings

        down, across = self.grid(config)
        return Embeddings(
            self.special(config), self.patch_embeddings(config), down * across, self.block_shape(config), keys,
            num_placed=self.num_placed(config), has_norm=config["has_norm_before"],
        )  # fmt: skip

    def pool(self, config: HfConfig) -> Pool | None:
        from pfm.backbones.pools import AttentionPool, MeanPool

        special = self.num_special(config)
        if config["pooling"] == "attention":
            return AttentionPool(dataclasses.replace(self.block_shape(config), is_gated=False), special)
        if config["pooling"] == "mean":
            return MeanPool(special, is_before_norm=config["has_norm_behind_pool"])
        return None

    def initial_weights(self, config: HfConfig) -> Tensors:
        return self.encoder(config).state_dict()

    def names(self, weights: Tensors) -> Tensors:
        renamed = super().names(weights)
        for name in list(renamed):
            layer, _, leaf = name.rpartition(".")
            before, _, joined = layer.rpartition(".")
            if joined == "qkv":
                parts = dict(zip(("q_proj", "k_proj", "v_proj"), renamed.pop(name).chunk(3), strict=True))
            elif joined == "kv":
                parts = dict(zip(("k_proj", "v_proj"), renamed.pop(name).chunk(2), strict=True))
            else:
                continue
            renamed.update({f"{before}.{part}.{leaf}": tensor.clone() for part, tensor in parts.items()})
        return _unpacked(renamed)


def _unpacked(renamed: Tensors) -> Tensors:
    """The gated MLP's first layer, which timm keeps in one, as gate and up."""
    for name in [name for name in renamed if name.startswith("layers.") and name.endswith(".mlp.fc2.weight")]:
        mlp = name.removesuffix("fc2.weight")
        if renamed[f"{mlp}fc1.weight"].shape[0] != 2 * renamed[name].shape[1]:
            continue
        for leaf in ("weight", "bias"):
            gate, up = renamed.pop(f"{mlp}fc1.{leaf}").chunk(2)
            renamed |= {f"{mlp}gate_proj.{leaf}": gate.clone(), f"{mlp}up_proj.{leaf}": up.clone()}
            renamed[f"{mlp}down_proj.{leaf}"] = renamed.pop(f"{mlp}fc2.{leaf}")
    return renamed


def timm_config(raw: Mapping[str, Any], weights: Tensors, name: str) -> HfConfig:
    """What a model is made of, at the size that its positions are stored for.

    Args:
        raw: `config.json`.
        weights: under timm's names.

    Raises:
        BackboneError: an architecture or weights that are not supported.
    """
    architecture, given = raw["architecture"], raw.get("model_args", {})
    if not _KNOWN.search(architecture) or _OTHERS.search(f"{architecture}_"):
        raise BackboneError(f"{name}: timm's {architecture} is not supported; vit_*, deit_* and deit3_* are")
    try:
        projection, hidden = weights["patch_embed.proj.weight"], weights["blocks.0.mlp.fc2.weight"].shape[1]
        positions = weights["pos_embed"].shape[1]
    except KeyError as error:
        raise BackboneError(f"{name} lacks {error}; it is not a ViT of timm's layout") from error
    width, channels, patch = projection.shape[0], projection.shape[1], projection.shape[-1]
    special = {token: weights[token].shape[1] for token in ("cls_token", "dist_token", "reg_token") if token in weights}
    count = sum(special.values())
    places_special = bool(count) and math.isqrt(positions - count) ** 2 == positions - count
    side = math.isqrt(positions - count if places_special else positions)
    config = {
        "model_type": Timm.name,
        "architecture": architecture,
        "image_size": side * patch,
        "patch_size": patch,
        "num_channels": channels,
        "hidden_size": width,
        "num_hidden_layers": 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks.")),
        "num_attention_heads": given.get("num_heads") or _heads(architecture, name),
        "intermediate_size": hidden,
        "layer_norm_eps": 1e-5 if "_clip_" in architecture else 1e-6,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "special_tokens": special,
        "places_special": places_special,
        "has_scales": "blocks.0.ls1.gamma" in weights,
        "is_gated": weights["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden,
        "has_patch_bias": "patch_embed.proj.bias" in weights,
        "has_norm_before": "norm_pre.weight" in weights,
        "has_norm_behind_pool": "fc_norm.weight" in weights,
        "pooling": _pooling(given.get("global_pool", raw.get("global_pool", "")), weights, name),
    }
    config["hidden_act"] = "silu" if config["is_gated"] else _activation(architecture, given, name)
    _check(config, weights, name)
    return config


def _check(config: HfConfig, weights: Tensors, name: str) -> None:
    """Refuse weights that are missing, or that would be left out."""
    import torch

    with torch.device("meta"):
        wanted = set(TIMM.encoder(config).state_dict())
    found = set(TIMM.names(weights))
    for what, names in (("lacks", wanted - found), ("holds", found - wanted)):
        if names:
            raise BackboneError(
                f"{name} {what} {len(names)} tensors ({sorted(names)[0]}, …) by which its architecture "
                f"{config['architecture']} differs from the ViTs that are supported"
            )


def _heads(architecture: str, name: str) -> int:
    for word, heads in _HEADS.items():
        if word in architecture:
            return heads
    raise BackboneError(f"{name}: how many heads {architecture} has is not known; say num_heads in its model_args")


def _activation(architecture: str, given: Mapping[str, Any], name: str) -> str:
    by_name = "quick_gelu" if "quickgelu" in architecture else "gelu_tanh" if _TANH.search(architecture) else "gelu"
    said = given.get("act_layer", by_name)
    if said not in _ACTIVATIONS:
        raise BackboneError(f"{name}: activation {said!r} is not supported; known: {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[said]


def _pooling(said: str, weights: Tensors, name: str) -> str:
    if "attn_pool.latent" in weights:
        return "attention"
    if said not in ("", "token", "avg"):
        raise BackboneError(f"{name}: pooling {said!r} is not supported; token, avg and map are")
    return "mean" if said == "avg" or "cls_token" not in weights else "cls"


def _processor(cfg: Mapping[str, Any], size: int) -> HfConfig:
    """timm's evaluation transform in the words of the library's processors."""
    resized = math.floor(size / cfg.get("crop_pct", 0.875))
    is_squashed = cfg.get("crop_mode", "center") == "squash"
    return {
        "image_mean": cfg.get("mean", (0.485, 0.456, 0.406)),
        "image_std": cfg.get("std", (0.229, 0.224, 0.225)),
        "resample": {"bilinear": 2, "bicubic": 3}.get(cfg.get("interpolation", "bicubic"), 3),
        "size": {"height": resized, "width": resized} if is_squashed else {"shortest_edge": resized},
        "do_center_crop": True,
        "crop_size": size,
    }


TIMM = Timm()
