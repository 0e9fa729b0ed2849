"""Augmentation of a batch of stored samples, on the device: random crops, time shift, silence.

A clip longer than the model's window is always cropped at random in training; the rest is off by default. As for
images, everything is drawn first, for the whole global batch.

Letters: B batch, F samples as stored, n samples of the model's window.
"""

from dataclasses import dataclass, replace

import torch

from pfm.data.sound_augmentation import spans

SILENCE = torch.finfo(torch.float32).tiny  # zeros are not samples


@dataclass(frozen=True, kw_only=True)
class WaveAugmentation:
    """What is done to each clip of a batch.

    Attributes:
        window: n.
        crops: (B,) in [0, 1), where the window begins in a clip that is longer.
        shifts: (B,) samples that a clip is moved by, later if above 0; None where none is.
        masks: (B, 2) in [0, 1), length and place of what is silenced; None where nothing is.
        longest: length of that, at the most.
    """

    window: int
    crops: torch.Tensor
    shifts: torch.Tensor | None
    masks: torch.Tensor | None
    longest: int

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, *, window: int, shift: int, mask: int) -> "WaveAugmentation":
        """Draw for `count` clips.

        Args:
            generator: on the CPU.
            shift, mask: samples that a clip is moved by, and that are silenced, at the most.
        """
        return cls(
            window=window,
            crops=torch.rand(count, generator=generator),
            shifts=torch.randint(-shift, shift + 1, (count,), generator=generator) if shift else None,
            masks=torch.rand(count, 2, generator=generator) if mask else None,
            longest=mask,
        )

    def rows(self, index: torch.Tensor) -> "WaveAugmentation":
        """The part for some clips."""
        shifts = None if self.shifts is None else self.shifts[index]
        masks = None if self.masks is None else self.masks[index]
        return replace(self, crops=self.crops[index], shifts=shifts, masks=masks)

    def __call__(self, stored: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, min(F, n)), as stored."""
        device, lengths = stored.device, wave_lengths(stored)
        if stored.shape[1] > self.window:
            spare = (lengths - self.window).clamp_min(0)
            starts = (self.crops.to(device) * (spare + 1)).long()
            stored, lengths = _taken(stored, starts, self.window), lengths.clamp(max=self.window)
        if self.shifts is not None:
            # what is pushed out is lost, and silence comes in: a clip stays as long as it is
            offsets = self.shifts.to(device)
            is_there = torch.arange(stored.shape[1], device=device) < lengths.unsqueeze(1)
            moved = _taken(stored, -offsets, stored.shape[1])
            stored = torch.where(is_there & (moved == 0), SILENCE, moved).masked_fill(~is_there, 0.0)
        if self.masks is not None:
            is_masked = spans(self.masks.to(device), lengths, self.longest, stored.shape[1])
            stored = stored.masked_fill(is_masked, SILENCE)
        return stored


def wave_lengths(stored: torch.Tensor) -> torch.Tensor:
    """(B, F) -> (B,) samples of each clip, up to the last that is not zero."""
    places = torch.arange(1, stored.shape[1] + 1, device=stored.device)
    return ((stored != 0) * places).amax(dim=1)


def _taken(stored: torch.Tensor, starts: torch.Tensor, length: int) -> torch.Tensor:
    """(B, F) -> (B, length): each row from its start on, zeros where that is outside."""
    places = torch.arange(length, device=stored.device) + starts.unsqueeze(1)
    is_inside = (places >= 0) & (places < stored.shape[1])
    return torch.where(is_inside, stored.gather(1, places.clamp(0, stored.shape[1] - 1)), 0.0)
