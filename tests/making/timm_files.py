"""Weights as timm names them."""

import torch


def small_vit() -> dict[str, torch.Tensor]:
    """A ViT of one block under timm's names, with registers, LayerScale and a classifier."""
    generator = torch.Generator().manual_seed(0)
    width, hidden = 48, 96
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "reg_token": (1, 2, width), "pos_embed": (1, 16, width),
        "patch_embed.proj.weight": (width, 3, 4, 4), "patch_embed.proj.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width), "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.weight": (width, width), "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (hidden, width), "blocks.0.mlp.fc1.bias": (hidden,),
        "blocks.0.mlp.fc2.weight": (width, hidden), "blocks.0.mlp.fc2.bias": (width,),
        "blocks.0.ls1.gamma": (width,), "blocks.0.ls2.gamma": (width,), "head.weight": (5, width), "head.bias": (5,),
    }  # fmt: skip
    for norm in ("blocks.0.norm1", "blocks.0.norm2", "norm"):
        shapes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    return {name: torch.randn(shape, generator=generator) * 0.2 for name, shape in shapes.items()}
