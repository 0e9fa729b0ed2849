"""How a family cuts its input into patches, and makes a token of each.

Letters: B batch, S pixels of an image's side, L frames of a sound, M mel bins, N patches, D hidden size.
"""

import torch
from torch import nn


class ImagePatches(nn.Module):
    """Pixels (B, 3, S, S) -> tokens (B, N, D): a linear map of each patch."""

    def __init__(self, channels: int, width: int, patch: int, *, has_bias: bool = True) -> None:
        super().__init__()
        self.projection = nn.Conv2d(channels, width, kernel_size=patch, stride=patch, bias=has_bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.projection(pixels).flatten(2).transpose(1, 2)


class SoundPatches(nn.Module):
    """Features (B, L, M) -> tokens (B, N, D): a linear map of each patch, bins down and frames across."""

    def __init__(self, width: int, patch: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.projection = nn.Conv2d(1, width, kernel_size=(patch, patch), stride=strides)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.projection(features.unsqueeze(1).transpose(2, 3)).flatten(2).transpose(1, 2)
