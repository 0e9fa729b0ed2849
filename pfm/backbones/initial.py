"""Initial weights as transformers draws them, to the bit, without the seconds that its models take to be imported.

Letters: D hidden size, T tokens of the backbone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from pfm.backbones.dropout import RowKeys
from pfm.backbones.encoder import Embeddings, Encoder

if TYPE_CHECKING:
    from pfm.backbones.family import Family, HfConfig, Tensors


@torch.no_grad()
def drawn_weights(family: Family, config: HfConfig, *, draws_tokens: bool) -> Tensors:
    """Weights from torch's generator: normal matrices, biases of zero, and the same for tokens and positions or zeros.

    The library's modules draw values as they are made, which it draws over once all of them are there. So does this,
    in the same order, since what is drawn depends on all that was drawn before.

    Args:
        draws_tokens: whether special tokens and positions are drawn (truncated normal), or are zeros.
    """
    keys, std, width = RowKeys(), config.get("initializer_range", 0.02), config["hidden_size"]
    down, across = family.grid(config)
    if draws_tokens:
        torch.randn(width)
    patches = family.patch_embeddings(config)
    embeddings = Embeddings(family.special_tokens, patches, down * across, family.block_shape(config), keys)
    places = embeddings.get_parameter("position_embeddings")
    if draws_tokens:
        torch.randn(places.shape)
    blocks = [family.block(config, number, keys) for number in range(config["num_hidden_layers"])]
    for matrix in patches.modules():
        _draw(matrix, std)
    if draws_tokens:
        for tokens in (places, *map(embeddings.get_parameter, family.special_tokens)):
            nn.init.trunc_normal_(tokens, mean=0.0, std=std)
    for block in blocks:
        for matrix in block.modules():
            _draw(matrix, std)
    return Encoder(embeddings, blocks, family.block_shape(config), keys).state_dict()


def _draw(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.normal_(module.weight, mean=0.0, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
