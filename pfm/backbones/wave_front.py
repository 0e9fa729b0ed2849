"""From samples to tokens: convolutions, a projection, and a convolution that tells each frame its place.

wav2vec 2.0 (Baevski et al., 2020, arXiv 2006.11477) began with it, and HuBERT and WavLM have it too. A clip of a batch
ends where its samples become NaN. What is behind the end reaches nothing that is in front of it, neither the statistics
of the first normalisation nor the places, so each clip's tokens are those that it has alone; behind them stand zeros.

Letters: B batch, n samples, C channels, L frames of a convolution's output, T tokens, D hidden size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pfm.backbones.dropout import RowDropout, RowKeys
from pfm.backbones.encoder import ACTIVATIONS, BlockShape

GROUP, LAYER = "group", "layer"  # what configurations call the two kinds of normalisation


@dataclass(frozen=True, kw_only=True)
class FrontShape:
    """What the convolutions are made of.

    Attributes:
        channels, kernels, strides: of each convolution, in order.
        norm: GROUP normalises each channel over time behind the first convolution; LAYER each frame, behind all.
        has_bias: whether the convolutions have one.
        activation: behind each of them, a name of `ACTIVATIONS`.
        has_norm: whether a LayerNorm stands in front of the projection.
        place_kernel, place_groups: of the convolution that tells frames their places.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    norm: str
    has_bias: bool
    activation: str
    has_norm: bool
    place_kernel: int
    place_groups: int

    @property
    def receptive(self) -> int:
        """Samples that one frame is made of, the fewest that a clip may have."""
        size = 1
        for kernel, stride in zip(reversed(self.kernels), reversed(self.strides), strict=True):
            size = (size - 1) * stride + kernel
        return size

    def num_frames(self, num_samples: int) -> int:
        """T, of so many samples."""
        return self.frames(num_samples)[-1]

    def frames(self, num_samples: int) -> list[int]:
        """Frames behind each convolution."""
        found: list[int] = []
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            num_samples = max((num_samples - kernel) // stride + 1, 0)
            found.append(num_samples)
        return found

    def multiply_adds(self, num_samples: int, width: int) -> float:
        """Of the convolutions, the projection and the places, for one clip."""
        frames = self.frames(num_samples)
        ins = (1, *self.channels[:-1])
        total = sum(t * i * o * k for t, i, o, k in zip(frames, ins, self.channels, self.kernels, strict=True))
        places = (frames[-1] + 1 - self.place_kernel % 2) * width * width // self.place_groups * self.place_kernel
        return total + frames[-1] * self.channels[-1] * width + places


class TimeNorm(nn.Module):
    """Each channel normalised over the frames that a clip has."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, hidden: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """(B, C, L), and (B, L) bool -> (B, C, L)."""
        hidden_dtype, hidden = hidden.dtype, hidden.float()
        weights = there.to(hidden.dtype).unsqueeze(1)  # (B, 1, L)
        share = weights.mean(dim=2, keepdim=True).clamp_min(1e-6)
        mean = (hidden * weights).mean(dim=2, keepdim=True) / share
        centred = hidden - mean
        variance = (centred.square() * weights).mean(dim=2, keepdim=True) / share
        normal = centred * torch.rsqrt(variance + self.eps)
        return (normal * self.weight.unsqueeze(1) + self.bias.unsqueeze(1)).to(hidden_dtype)


class Conv(nn.Module):
    """One convolution, what normalises it, and the activation."""

    def __init__(self, shape: FrontShape, number: int) -> None:
        super().__init__()
        before = shape.channels[number - 1] if number else 1
        channels, kernel, stride = shape.channels[number], shape.kernels[number], shape.strides[number]
        self.conv = nn.Conv1d(before, channels, kernel, stride=stride, bias=shape.has_bias)
        self.over_time = TimeNorm(channels) if shape.norm == GROUP and number == 0 else None
        self.norm = nn.LayerNorm(channels) if shape.norm == LAYER else None
        self.activation = ACTIVATIONS[shape.activation]

    def forward(self, hidden: torch.Tensor, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, L), of which each clip has `counts` (B,) -> the same behind the convolution."""
        (kernel,), (stride,) = self.conv.kernel_size, self.conv.stride
        hidden = self.conv(hidden)
        counts = ((counts - kernel).div(stride, rounding_mode="floor") + 1).clamp_min(0)
        if self.over_time is not None:
            hidden = self.over_time(hidden, _first(hidden.shape[2], counts))
        if self.norm is not None:
            hidden = self.norm(hidden.transpose(1, 2)).transpose(1, 2)
        return self.activation(hidden), counts


class WaveEmbeddings(nn.Module):
    """Samples as tokens, with their places.

    Attributes:
        norm: a LayerNorm in front of the blocks, which prompts enter behind; None where blocks begin with one.
        relative: what all blocks share of relative positions; None where there are none.
    """

    def __init__(self, front: FrontShape, shape: BlockShape, keys: RowKeys) -> None:
        super().__init__()
        width, last = shape.hidden_size, front.channels[-1]
        self.convs = nn.ModuleList(Conv(front, number) for number in range(len(front.channels)))
        self.feature_norm = nn.LayerNorm(last, eps=shape.layer_norm_eps) if front.has_norm else None
        self.projection = nn.Linear(last, width)
        self.places = nn.Conv1d(
            width, width, front.place_kernel, padding=front.place_kernel // 2, groups=front.place_groups
        )
        self.activation = ACTIVATIONS[front.activation]
        self.norm = nn.LayerNorm(width, eps=shape.layer_norm_eps) if shape.norms_behind else None
        self.relative: nn.Module | None = None
        self.dropout = RowDropout(shape.dropout, "embeddings.dropout/0", keys)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """(B, n), NaN behind the end of a clip -> (B, T, D), zeros behind the end of one."""
        is_gone = samples.isnan()
        counts = (~is_gone).sum(dim=1)  # (B,)
        hidden = samples.masked_fill(is_gone, 0.0).unsqueeze(1)
        for conv in self.convs:
            hidden, counts = conv(hidden, counts)
        hidden = hidden.transpose(1, 2)  # (B, T, C)
        if self.feature_norm is not None:
            hidden = self.feature_norm(hidden)
        is_there = _first(hidden.shape[1], counts).unsqueeze(2)
        hidden = torch.where(is_there, self.projection(hidden), 0.0)
        hidden = hidden + self.activation(self._placed(hidden))
        hidden = self.dropout(hidden if self.norm is None else self.norm(hidden))
        return torch.where(is_there, hidden, 0.0)

    def _placed(self, hidden: torch.Tensor) -> torch.Tensor:
        placed = self.places(hidden.transpose(1, 2)).transpose(1, 2)
        return placed if self.places.kernel_size[0] % 2 else placed[:, :-1]  # an even kernel makes one too many


def _first(length: int, counts: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, length) bool, True for the first `counts` of each row."""
    return torch.arange(length, device=counts.device) < counts.unsqueeze(1)


def plain_weight(magnitude: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    """The weight (D, D / groups, kernel) of a convolution that is stored as magnitude (1, 1, kernel) and direction."""
    return direction * (magnitude / direction.square().sum(dim=(0, 1), keepdim=True).sqrt())


def sizes(values: Sequence[int] | int) -> tuple[int, ...]:
    """A configuration's list of sizes."""
    return (values,) if isinstance(values, int) else tuple(values)
