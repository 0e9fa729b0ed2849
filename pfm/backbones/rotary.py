"""Rotary positions of patches (Su et al., 2021, arXiv 2104.09864), as DINOv3 has them: a place is an angle.

Queries and keys of patches are turned by angles that follow from the patch's centre. Special tokens and prompts have no
place and are not turned, wherever they stand.

Letters: B batch, H heads, n tokens, N patches, d width of a head.
"""

import math

import torch
from torch import nn


class Rotary(nn.Module):
    """Turns what belongs to patches.

    Args:
        first: the place of the first patch among the backbone's tokens.
        grid: patches down and across.
        head_dim: d.
        base: of the frequencies, the largest period.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, first: int, grid: tuple[int, int], head_dim: int, base: float) -> None:
        super().__init__()
        self.first = first
        self.count = grid[0] * grid[1]
        angles = _angles(grid, head_dim, base)  # (N, d)
        # computed, so neither stored nor hashed: the last bit of a cosine is the machine's
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, heads: torch.Tensor, start: int) -> torch.Tensor:
        """(B, H, n, d) of the tokens from place `start` on -> the same with patches turned."""
        begin = max(self.first - start, 0)  # of the patches, among these tokens
        end = self.first + self.count - start
        if end <= 0 or (isinstance(heads.shape[2], int) and begin >= heads.shape[2]):
            return heads
        skipped = max(start - self.first, 0)  # patches that are not among them
        before, patches, behind = heads[:, :, :begin], heads[:, :, begin:end], heads[:, :, end:]
        cos, sin = self.cos[skipped:], self.sin[skipped:]
        if isinstance(patches.shape[2], int):
            cos, sin = cos[: patches.shape[2]], sin[: patches.shape[2]]
        left, right = patches.chunk(2, dim=-1)
        turned = patches * cos.to(heads.dtype) + torch.cat([-right, left], dim=-1) * sin.to(heads.dtype)
        return torch.cat([before, turned, behind], dim=2)


def _angles(grid: tuple[int, int], head_dim: int, base: float) -> torch.Tensor:
    """(N, d): of each patch's centre in [-1, 1], by frequency, down and across, twice."""
    # the device is said, since an encoder is built where no memory is taken
    down, across = (torch.arange(0.5, count, device="cpu") / count for count in grid)
    centres = torch.stack(torch.meshgrid(down, across, indexing="ij"), dim=-1).flatten(0, 1) * 2 - 1  # (N, 2)
    frequencies = 1 / base ** torch.arange(0, 1, 4 / head_dim, dtype=torch.float32, device="cpu")  # (d / 4,)
    return (2 * math.pi * centres[:, :, None] * frequencies).flatten(1).tile(2)
