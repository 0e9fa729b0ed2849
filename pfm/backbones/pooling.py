"""Raw input pooled over windows: one token an input, whose numbers are the windows' means at a fixed offset and scale.

Letters: B batch, C channels, S pixels of the side, g windows of a side, k pixels of a window's side, L frames,
M mel bins.
"""

import torch
from torch import nn

HALF = 127.5  # pixel values come as (p - 127.5) / 127.5
MEAN, STD = -4.2677393, 4.5689974  # of AudioSet's log-mel values
LEVELS = 16  # integers of a quantised feature to a grey level


class PooledPixels(nn.Module):
    """Pixels (B, 3, S, S) -> (B, 1, C·g·g): (mean - 128) / 64 of each window.

    Pixels are brought back to whole grey levels first: their sums are integers, exact in any order.
    """

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.channels = channels
        self.window = window

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        side = pixels.shape[-1] // self.window * self.window
        levels = (pixels[:, : self.channels, :side, :side] * HALF + HALF).round()
        windows = levels.unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window))  # (B, C, g, k, g, k)
        sums = windows.sum(dim=(3, 5)).flatten(1)  # (B, C·g·g)
        return ((sums * (LEVELS / self.window**2) - 128 * LEVELS) / (64 * LEVELS)).unsqueeze(1)


class PooledFrames(nn.Module):
    """Log-mel features (B, L, M) as stored -> (B, 1, L/frames · M/bins): the mean of each window, at a fixed scale.

    A frame that a clip does not have is all zeros, and stays so; AudioSet's mean and deviation are for the others.
    """

    def __init__(self, frames: int, bins: int) -> None:
        super().__init__()
        self.frames = frames
        self.bins = bins

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        length = features.shape[1] // self.frames * self.frames
        width = features.shape[2] // self.bins * self.bins
        is_there = (features != 0).any(dim=2, keepdim=True)  # (B, L, 1)
        values = torch.where(is_there, (features - MEAN) / STD, 0.0)
        windows = values[:, :length, :width].unflatten(2, (-1, self.bins)).unflatten(1, (-1, self.frames))
        return windows.mean(dim=(2, 4)).flatten(1).unsqueeze(1)
