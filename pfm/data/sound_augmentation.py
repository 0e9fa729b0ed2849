"""Augmentation of a batch of stored sounds, on the device: random crops, time shift, SpecAugment.

A clip longer than the model's window is always cropped at random in training; the rest is off by
default, as in the paper. As for images, everything is drawn first, for the whole global batch.

Letters: B batch, F frames as stored, L frames of the model's window, M mel bins.
"""

from dataclasses import dataclass, replace

import torch
from torch.nn import functional as F

from pfm.data.config import SoundAugmentConfig
from pfm.data.mel import clip_lengths


@dataclass(frozen=True, kw_only=True)
class SoundAugmentation:
    """What is done to each clip of a batch.

    Attributes:
        window: L.
        blank: the feature that stands for nothing, the mean that the model's preprocessing takes off.
        crops: (B,) in [0, 1), where the window begins in a clip that is longer.
        shifts: (B,) frames that a clip is moved by, later if above 0; None where none is.
        time_masks, mel_masks: (B, 2) in [0, 1), length and place of what is blotted out; None where nothing is.
        most_frames, most_bins: lengths of such a mask, at the most.
    """

    window: int
    blank: float
    crops: torch.Tensor
    shifts: torch.Tensor | None
    time_masks: torch.Tensor | None
    mel_masks: torch.Tensor | None
    most_frames: int
    most_bins: int

    @classmethod
    def draw(
        cls, count: int, config: SoundAugmentConfig, generator: torch.Generator, *, window: int, blank: float
    ) -> "SoundAugmentation":
        """Draw for `count` clips (SpecAugment: Park et al., 2019, arXiv 1904.08779; one mask of each kind, no warping).

        Args:
            generator: on the CPU.
        """
        reach = config.time_shift
        return cls(
            window=window,
            blank=blank,
            crops=torch.rand(count, generator=generator),
            shifts=torch.randint(-reach, reach + 1, (count,), generator=generator) if reach else None,
            time_masks=torch.rand(count, 2, generator=generator) if config.time_mask else None,
            mel_masks=torch.rand(count, 2, generator=generator) if config.mel_mask else None,
            most_frames=config.time_mask,
            most_bins=config.mel_mask,
        )

    def rows(self, index: torch.Tensor) -> "SoundAugmentation":
        """The part for some clips."""

        def some(drawn: torch.Tensor | None) -> torch.Tensor | None:
            return None if drawn is None else drawn[index]

        return replace(
            self,
            crops=self.crops[index],
            shifts=some(self.shifts),
            time_masks=some(self.time_masks),
            mel_masks=some(self.mel_masks),
        )

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, M) -> (B, min(F, L) or L, M), as stored."""
        window, device = self.window, features.device
        if features.shape[1] > window:
            spare = (clip_lengths(features) - window).clamp_min(0)
            features = _moved(features, -(self.crops.to(device) * (spare + 1)).long(), window)
        if self.shifts is not None:
            features = F.pad(features, (0, 0, 0, window - features.shape[1]))
            features = _moved(features, self.shifts.to(device), window)
        if self.time_masks is not None:
            lengths = clip_lengths(features)
            is_masked = spans(self.time_masks.to(device), lengths, self.most_frames, features.shape[1])
            features = features.masked_fill(is_masked.unsqueeze(2), self.blank)
        if self.mel_masks is not None:
            bins = torch.full((len(features),), features.shape[2], device=device)
            is_masked = spans(self.mel_masks.to(device), bins, self.most_bins, features.shape[2])
            there = (features != 0).any(dim=2, keepdim=True)  # what is behind a clip stays zeros
            features = features.masked_fill(is_masked.unsqueeze(1) & there, self.blank)
        return features


def _moved(features: torch.Tensor, offsets: torch.Tensor, length: int) -> torch.Tensor:
    """(B, F, M) -> (B, length, M): frame t comes from t - offset, zeros where that is outside."""
    places = torch.arange(length, device=features.device) - offsets.unsqueeze(1)  # (B, length)
    is_inside = (places >= 0) & (places < features.shape[1])
    places = places.clamp(0, features.shape[1] - 1)
    taken = features.gather(1, places.unsqueeze(2).expand(-1, -1, features.shape[2]))
    return torch.where(is_inside.unsqueeze(2), taken, 0.0)


def spans(drawn: torch.Tensor, sizes: torch.Tensor, most: int, width: int) -> torch.Tensor:
    """(B, width) bool: a span of 0 to `most` places for each row, within the first `sizes` of them."""
    lengths = torch.minimum((drawn[:, 0] * (most + 1)).long(), sizes)
    starts = (drawn[:, 1] * (sizes - lengths + 1)).long()
    places = torch.arange(width, device=drawn.device)
    return (places >= starts.unsqueeze(1)) & (places < (starts + lengths).unsqueeze(1))
