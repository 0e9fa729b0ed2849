"""Relative positions of frames, as WavLM has them (Chen et al., 2022, arXiv 2110.13900): a number for each distance.

What is added to a score is the head's learned number, gated by the token that asks. Prompts have no place: nothing is
added where one asks or is asked.

Letters: B batch, H heads, T own tokens, S tokens with the prompts behind them, P tokens that ask, D hidden size,
d width of a head.
"""

import math

import torch
from torch import nn


class Distances(nn.Module):
    """The learned numbers, which all blocks share; far distances share one.

    Args:
        num_buckets: of distances, half of them for each direction.
        farthest: from which on all are alike.
    """

    buckets: torch.Tensor

    def __init__(self, num_heads: int, num_buckets: int, farthest: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_buckets, num_heads)
        self.reach = 2 * farthest
        # computed, so neither stored nor hashed
        self.register_buffer("buckets", _buckets(num_buckets, farthest, self.reach), persistent=False)
        self._last: tuple[object, torch.Tensor] | None = None

    def forward(self, num_own: int, num_all: int, positions: slice | None) -> torch.Tensor:
        """(H, P, S): of the tokens at `positions`, None is all, to each of them; 0 from and to prompts."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return self._made(num_own, num_all, positions)
        weight = self.embedding.weight
        if torch.is_grad_enabled() and weight.requires_grad:
            return self._made(num_own, num_all, positions)
        place = None if positions is None else (positions.start, positions.stop)
        version = 0 if weight.is_inference() else weight._version
        key = (num_own, num_all, place, weight.device, weight.dtype, weight.data_ptr(), version,
               torch.is_inference_mode_enabled())  # fmt: skip
        last = self._last  # every block asks for the same
        if last is None or last[0] != key:
            last = self._last = (key, self._made(num_own, num_all, positions))
        return last[1]

    def _made(self, num_own: int, num_all: int, positions: slice | None) -> torch.Tensor:
        places = torch.arange(num_all, device=self.buckets.device)
        asking = places if positions is None else places[positions]
        distance = (places - asking[:, None]).clamp(-self.reach, self.reach) + self.reach  # (P, S)
        has_place = (places < num_own) & (asking[:, None] < num_own)
        rows = torch.cat(
            [self.embedding(self.buckets), self.embedding.weight.new_zeros(1, self.embedding.embedding_dim)]
        )
        return rows[torch.where(has_place, distance, len(self.buckets))].permute(2, 0, 1)


class Gated(nn.Module):
    """A block's own gate in front of the shared numbers.

    Args:
        distances: belongs to the whole encoder, and is not part of this module.
    """

    def __init__(self, num_heads: int, head_dim: int, distances: Distances) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.ones(1, num_heads, 1, 1))
        self.linear = nn.Linear(head_dim, 2)
        self._shared = (distances,)  # in a tuple, where torch does not take it for a part

    def forward(self, asking: torch.Tensor, num_own: int, num_all: int, positions: slice | None) -> torch.Tensor:
        """(B, H, P, S) of the tokens (B, P, D) that ask, as attention is given them."""
        heads = asking.unflatten(-1, (-1, self.linear.in_features)).transpose(1, 2)  # (B, H, P, d)
        opened = torch.sigmoid(self.linear(heads))  # (B, H, P, 2)
        gate = opened[..., :1] * (opened[..., 1:] * self.constant - 1) + 2
        return gate * self._shared[0](num_own, num_all, positions)


def _buckets(num_buckets: int, farthest: int, reach: int) -> torch.Tensor:
    """(2 reach + 1,) int64, of the distances -reach … reach: one each where near, by their logarithm where far."""
    half = num_buckets // 2
    exact = half // 2
    distance = torch.arange(-reach, reach + 1, device="cpu")  # said, since an encoder is built where no memory is taken
    steps = distance.abs()
    share = torch.log(steps.float() / exact) / math.log(farthest / exact)
    far = (exact + share * (half - exact)).clamp(max=half - 1).nan_to_num(neginf=0).long()
    return torch.where(steps < exact, steps, far) + half * (distance > 0)
