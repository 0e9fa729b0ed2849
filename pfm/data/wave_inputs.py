"""Sounds as samples: read once, brought to the model's rate, made into model input on the batch, on the device.

Stored clips are filled up with zeros behind their end, and have none before it; in model input NaN stands there, so
that a model sees where a clip ends and can leave out what is behind.

Letters: N clips, B batch, F samples as stored, n samples of the model's window.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional as F

from pfm.data.config import TimeAugmentConfig
from pfm.data.inputs import Storage
from pfm.data.sound_jobs import WaveLook, WaveRow
from pfm.data.sounds import SoundFiles
from pfm.data.wave_augmentation import WaveAugmentation, wave_lengths
from pfm.data.wave_windows import VARIANCE_FLOOR
from pfm.data.workers import Job
from pfm.errors import ConfigError
from pfm.storage import Json


@dataclass(frozen=True)
class WaveStorage(SoundFiles):
    """How sounds are stored: samples (N, F) float32, zeros behind the end of a clip and nowhere else.

    Attributes:
        sampling_rate: samples per second that a sound is brought to first.
        min_samples: that a clip has to have then.
    """

    sampling_rate: int = 16_000
    min_samples: int = 400
    augment_config: ClassVar[type[TimeAugmentConfig]] = TimeAugmentConfig

    def look(self, max_seconds: float) -> Job:
        return WaveLook(self.sampling_rate, max_seconds)

    def row(self, max_seconds: float) -> Job:
        return WaveRow(self.sampling_rate, self.min_samples, max_seconds)

    @property
    def element(self) -> tuple[int, ...]:
        return ()

    def describe(self, stored_shape: tuple[int, ...]) -> str:
        """One stored clip (F,), in words."""
        return f"sounds of up to {stored_shape[0] / self.sampling_rate:.2f} s at {self.sampling_rate:,} Hz"

    def measured_preprocess(self, stored: torch.Tensor, input_shape: tuple[int, ...]) -> "WavePreprocess":
        """For a model that takes (n,): nothing is measured on the data, each clip is normalised by itself."""
        del stored
        return self.default_preprocess(input_shape)

    def default_preprocess(self, input_shape: tuple[int, ...]) -> "WavePreprocess":
        """For a model that takes (n,)."""
        return WavePreprocess(
            max_samples=input_shape[0], min_samples=self.min_samples, sampling_rate=self.sampling_rate
        )


@dataclass(frozen=True, kw_only=True)
class WavePreprocess:
    """From stored samples to what the backbone wants.

    Attributes:
        max_samples: n.
        min_samples: of a clip; what is left of one behind its last window is not looked at if it is shorter.
        do_normalize: whether each window is brought to mean 0 and variance 1.
    """

    kind: ClassVar[str] = "waves"
    max_samples: int
    min_samples: int
    sampling_rate: int = 16_000
    do_normalize: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.min_samples <= self.max_samples:
            raise ConfigError(f"a window of {self.max_samples} samples is shorter than a frame, {self.min_samples}")

    def __call__(self, stored: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, n): the first window, normalised, with NaN behind the end of a clip."""
        samples = stored[:, : self.max_samples]
        lengths = wave_lengths(samples)
        missing = self.max_samples - samples.shape[1]
        if missing > 0:
            samples = F.pad(samples, (0, missing))
        is_gone = torch.arange(self.max_samples, device=samples.device) >= lengths.unsqueeze(1)
        if self.do_normalize:
            counts = lengths.clamp_min(1).unsqueeze(1)
            centred = (samples - samples.sum(dim=1, keepdim=True) / counts).masked_fill(is_gone, 0.0)
            variance = centred.square().sum(dim=1, keepdim=True) / counts
            samples = centred / (variance + VARIANCE_FLOOR).sqrt()
        return samples.masked_fill(is_gone, torch.nan)

    def windows(self, stored: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """What the model is to see of each clip, window after window, for an answer that is their average.

        Returns:
            Model inputs (B, n), each with the weight (B,) that it has in a clip's average: its share of the clip's
            samples. None is 1, where one window holds all.
        """
        if not self.is_cropped(stored):
            return [(self(stored), None)]
        lengths = wave_lengths(stored)
        starts = range(0, int(lengths.max().clamp_min(1)), self.max_samples)
        own = torch.stack([(lengths - start).clamp(0, self.max_samples) for start in starts])  # (windows, B)
        own = torch.where(own < self.min_samples, 0, own)
        shares = own / own.sum(dim=0).clamp_min(1)
        cuts = [stored[:, start : start + self.max_samples] for start in starts]
        return [(self(cut), share) for cut, share in zip(cuts, shares, strict=True)]

    def is_cropped(self, stored: torch.Tensor) -> bool:
        """Whether clips may be longer than the window, which then is a part of them, drawn in training."""
        return stored.shape[1] > self.max_samples

    def draw_augmentation(self, count: int, config: TimeAugmentConfig, generator: torch.Generator) -> WaveAugmentation:
        """What is varied in each of `count` clips; at the least, where a longer one is cropped."""
        hop = self.sampling_rate // 100  # the options are in frames of 10 ms
        return WaveAugmentation.draw(
            count, generator, window=self.max_samples, shift=config.time_shift * hop, mask=config.time_mask * hop
        )

    @property
    def storage(self) -> WaveStorage:
        """How the sounds it takes are stored."""
        return WaveStorage(self.sampling_rate, self.min_samples)

    def stored_as(self, storage: Storage) -> "WavePreprocess":
        """The same: there is one way."""
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n,)."""
        return (self.max_samples,)

    def to_dict(self) -> Json:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "WavePreprocess":
        names = ("max_samples", "min_samples", "sampling_rate", "do_normalize")
        return cls(**{name: values[name] for name in names})
