"""Dropout whose mask belongs to the example, not to the process that happens to compute it.

An ordinary dropout layer draws from a generator whose state depends on everything drawn before, so
two processes of half a batch drop other elements than one process of the whole. Here the mask is a
hash of the example's key, the layer and the place in the example. The same example gets the same
mask whatever the number of processes, the micro-batch or the moment a run was resumed at, and when
activation checkpointing computes a block again.

Letters: B rows of a batch, E elements of one row.
"""

import zlib

import torch
from torch import nn
from torch.nn import functional as F

# the "lowbias32" constants of C. Wellons' search for integer hashes, as signed 32-bit numbers
_FIRST = 0x7FEB352D
_SECOND = 0x846CA68B - (1 << 32)
_GOLDEN = 0x9E3779B9 - (1 << 32)


class RowKeys:
    """Where the dropout layers of one model find the keys of the rows they are given.

    Attributes:
        current: (B,) int32; None leaves the draw to torch's own generator.
    """

    def __init__(self) -> None:
        self.current: torch.Tensor | None = None


class RowDropout(nn.Module):
    """Dropout (Srivastava et al., 2014) of (B, …) with one key for each row."""

    def __init__(self, p: float, name: str, keys: RowKeys) -> None:
        """
        Args:
            p: share of the elements that is dropped, 0 <= p < 1.
            name: of this layer; layers of different names drop different elements.
            keys: shared with every layer of the model.
        """
        super().__init__()
        self.p = p
        self.salt = zlib.crc32(name.encode()) - (1 << 31)
        self.keys = keys

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return inputs
        keys = self.keys.current
        if keys is None:
            return F.dropout(inputs, self.p)
        assert len(keys) == len(inputs), f"{len(keys)} keys for {len(inputs)} rows"
        kept = keep_mask(keys ^ self.salt, inputs[0].numel(), self.p).view(inputs.shape)
        return inputs * kept.to(inputs.dtype).mul_(1 / (1 - self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


def keep_mask(keys: torch.Tensor, length: int, p: float) -> torch.Tensor:
    """(B,) int32 keys -> (B, length) bool, False with probability p (rounded to a multiple of 2^-16)."""
    half = -(-length // 2)  # one hash of 32 bits serves two elements
    places = torch.arange(half, dtype=torch.int32, device=keys.device).mul_(_GOLDEN)
    bits = _mixed(_mixed(keys)[:, None] + places)  # (B, half)
    threshold = round(p * (1 << 16)) - (1 << 15)
    return bits.view(torch.int16)[:, :length] >= threshold


def _mixed(x: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit integers in which every input bit changes every output bit half of the time."""
    x = x ^ (x >> 16).bitwise_and_(0xFFFF)  # torch's shift repeats the sign bit; the mask clears it
    x = x.mul_(_FIRST)
    x = x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF))
    x = x.mul_(_SECOND)
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))
