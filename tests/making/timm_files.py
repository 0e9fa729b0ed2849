"""Weights as timm names them, and its layout of a folder."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

CFG = {"input_size": [3, 16, 16], "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}


def write_timm(folder: Path, architecture: str, weights: dict[str, torch.Tensor], **more: Any) -> Path:
    """A checkpoint in timm's layout; `more` is added to its configuration."""
    folder.mkdir()
    config = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": CFG, **more}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "model.safetensors")
    return folder


def small_vit(depth: int = 1) -> dict[str, torch.Tensor]:
    """A ViT under timm's names, of one block or more, with registers, LayerScale and a classifier."""
    generator = torch.Generator().manual_seed(0)
    width, hidden = 48, 96
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "reg_token": (1, 2, width), "pos_embed": (1, 16, width),
        "patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,),
        "head.weight": (5, width), "head.bias": (5,), "norm.weight": (width,), "norm.bias": (width,),
    }  # fmt: skip
    for block in (f"blocks.{number}." for number in range(depth)):
        shapes |= {
            block + "attn.qkv.weight": (3 * width, width), block + "attn.qkv.bias": (3 * width,),
            block + "attn.proj.weight": (width, width), block + "attn.proj.bias": (width,),
            block + "mlp.fc1.weight": (hidden, width), block + "mlp.fc1.bias": (hidden,),
            block + "mlp.fc2.weight": (width, hidden), block + "mlp.fc2.bias": (width,),
            block + "ls1.gamma": (width,), block + "ls2.gamma": (width,), block + "norm1.weight": (width,),
            block + "norm1.bias": (width,), block + "norm2.weight": (width,), block + "norm2.bias": (width,),
        }  # fmt: skip
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
