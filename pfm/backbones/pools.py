"""How an input is summed up where a family has no CLS: the mean of its patches, or a head that attends to them.

A pool reads the backbone's own tokens alone. Prompts act on it through the blocks, as they act on CLS.

Letters: B batch, T tokens of the backbone, D hidden size, H heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from pfm.backbones.encoder import BlockShape


class Pool(nn.Module):
    """A summary of the outputs of the backbone's own tokens.

    Args:
        num_special: tokens in front of the patches.
        is_before_norm: whether the final LayerNorm comes behind the pool, and not before it.
    """

    def __init__(self, num_special: int, *, is_before_norm: bool = False) -> None:
        super().__init__()
        self.num_special = num_special
        self.is_before_norm = is_before_norm

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        """(B, T, D) -> (B, 1, D)"""
        raise NotImplementedError

    def multiply_adds(self, num_tokens: int) -> float:
        """Of the matrix products for one input of T tokens."""
        del num_tokens
        return 0.0


class MeanPool(Pool):
    """The mean of the patches."""

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[:, self.num_special :].mean(dim=1, keepdim=True)


class FramePool(Pool):
    """The mean of the frames that a sound has."""

    def forward(self, outputs: torch.Tensor, there: torch.Tensor | None = None) -> torch.Tensor:
        """(B, T, D) -> (B, 1, D).

        Args:
            there: (B, T) bool; None where all frames are.
        """
        if there is None:
            return outputs.mean(dim=1, keepdim=True)
        weights = there.to(outputs.dtype).unsqueeze(2)  # (B, T, 1)
        # a mean and a ratio, where a sum might be too large for half precision
        return (outputs * weights).mean(dim=1, keepdim=True) / weights.mean(dim=1, keepdim=True).clamp_min(1e-4)


class AttentionPool(Pool):
    """A learned query attends to all tokens, and an MLP behind it (Zhai et al., 2022, arXiv 2106.04560)."""

    def __init__(self, shape: BlockShape, num_special: int = 0) -> None:
        from pfm.backbones.encoder import Mlp

        super().__init__(num_special)
        width = shape.hidden_size
        self.head_dim = width // shape.num_heads
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.layernorm = nn.LayerNorm(width, eps=shape.layer_norm_eps)
        self.mlp = Mlp(shape)

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        query = self._heads(self.q_proj(self.probe))  # (1, H, 1, D / H)
        outputs = outputs[:, self.num_special :]
        key, value = self._heads(self.k_proj(outputs)), self._heads(self.v_proj(outputs))
        scores = torch.matmul(query, key.transpose(2, 3)) * self.head_dim**-0.5  # (B, H, 1, T)
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        attended = self.o_proj(torch.matmul(weights, value).transpose(1, 2).flatten(2))  # (B, 1, D)
        return attended + self.mlp(self.layernorm(attended))

    def multiply_adds(self, num_tokens: int) -> float:
        width, tokens = self.probe.shape[-1], num_tokens - self.num_special
        mlp = sum(parameter.numel() for parameter in self.mlp.parameters() if parameter.ndim == 2)
        return 2 * (tokens + 1) * width * width + 2 * tokens * width + mlp

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
