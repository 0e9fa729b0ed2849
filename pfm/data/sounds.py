"""Sounds: read once into log-mel features, made into model input on the batch, on the device.

Letters: N clips, B batch, n samples, F frames as stored, L frames of the model's window, M mel bins.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch.nn import functional as F

from pfm.data.config import DataConfig, SoundAugmentConfig, TimeAugmentConfig
from pfm.data.file_names import SOUND_ENDINGS
from pfm.data.inputs import Storage
from pfm.data.intake import Looked, Rowed, Words, take_in
from pfm.data.kinds import InputKind
from pfm.data.mel import MelSettings, clip_lengths
from pfm.data.reading import FilesToRead, Stacked
from pfm.data.sound_augmentation import SoundAugmentation
from pfm.data.sound_jobs import SoundLook, SoundRow
from pfm.data.workers import Job
from pfm.errors import ConfigError
from pfm.storage import Json

AUDIOSET_MEAN, AUDIOSET_STD = -4.2677393, 4.5689974  # of the features AST was trained on


class SoundFiles(ABC):
    """What every way to store sounds shares: rows (N, F, …) float32, zeros behind the end of a clip."""

    kind: ClassVar[str] = "audio"
    noun: ClassVar[str] = "sounds"
    item: ClassVar[str] = "clip"
    folder_prefix: ClassVar[str] = "audiofolder:"
    endings: ClassVar[tuple[str, ...]] = SOUND_ENDINGS
    column_type: ClassVar[str] = "Audio"
    how_to_ask: ClassVar[str] = "; data of sounds is audiofolder:PATH or has --data_type audio"
    augment_config: ClassVar[type[TimeAugmentConfig]] = SoundAugmentConfig
    data_options: ClassVar[tuple[str, ...]] = ("max_seconds",)

    @abstractmethod
    def look(self, max_seconds: float) -> Job:
        """Finds out how long a clip's row is at the most, (1,) int64."""

    @abstractmethod
    def row(self, max_seconds: float) -> Job:
        """Makes the row of a clip, of which no more than `max_seconds` are read."""

    @property
    @abstractmethod
    def element(self) -> tuple[int, ...]:
        """Shape of one element of a row, in time."""

    def decided(self, files: Mapping[str, FilesToRead], config: DataConfig) -> Self:
        """The same: nothing is left open.

        Raises:
            ConfigError: an option that is for images.
        """
        given = [f"--{name}" for name in config.of_training if getattr(config, name) != getattr(DataConfig, name)]
        if given:
            raise ConfigError(f"for images only: {', '.join(given)}; this data has none")
        return self

    def taken(self, inputs: torch.Tensor) -> torch.Tensor:
        """The same."""
        return inputs

    def read(self, files: FilesToRead) -> Stacked:
        """Read sound files.

        Raises:
            DataError: a file that cannot be read, or none that can.
        """
        return self.read_splits({"": files})[""]

    def read_splits(self, files: Mapping[str, FilesToRead]) -> dict[str, Stacked]:
        """The files of each split, rows of one length in all."""
        seconds = next(iter(files.values())).max_seconds
        words = Words(noun=self.noun, unit="clip", verb="read", doing="reading")

        def plan(looked: Mapping[str, Looked]) -> Rowed:
            lengths = {split: part.facts[:, 0] for split, part in looked.items()}
            longest = max(int(counts.max()) for counts in lengths.values())
            size = 4 * math.prod(self.element)
            return Rowed(
                job=self.row(seconds),
                shape=(longest, *self.element),
                dtype=torch.float32,
                size_bytes={split: size * int(counts.sum()) for split, counts in lengths.items()},
                is_ragged=True,
            )

        return take_in(files, self.look(seconds), plan, words)

    def file_shape(self, stored_shape: tuple[int, ...]) -> tuple[int, ...]:
        """As it is stored."""
        return stored_shape

    def brought_to(self, inputs: torch.Tensor, stored_shape: tuple[int, ...]) -> torch.Tensor:
        """Rows, which a data set only fills up with zeros."""
        return inputs


@dataclass(frozen=True)
class SoundStorage(MelSettings, SoundFiles):
    """How sounds are stored: log-mel features (N, F, M) float32, zeros behind the end of a clip."""

    def look(self, max_seconds: float) -> Job:
        return SoundLook(self.sampling_rate, max_seconds)

    def row(self, max_seconds: float) -> Job:
        return SoundRow(self.sampling_rate, self.num_mel_bins, max_seconds)

    @property
    def element(self) -> tuple[int, ...]:
        return (self.num_mel_bins,)

    def describe(self, stored_shape: tuple[int, ...]) -> str:
        """One stored clip (F, M), in words."""
        return f"sounds of up to {stored_shape[0]} frames of {stored_shape[1]} mel bins"

    def measured_preprocess(self, stored: torch.Tensor, input_shape: tuple[int, ...]) -> "SoundPreprocess":
        """With mean and deviation of stored clips (N, F, M), for a model that takes (L, M)."""
        mean, std = measure_features(stored)
        return self._preprocess(input_shape, mean, std)

    def default_preprocess(self, input_shape: tuple[int, ...]) -> "SoundPreprocess":
        """With AudioSet's mean and deviation, for a model that takes (L, M)."""
        return self._preprocess(input_shape, AUDIOSET_MEAN, AUDIOSET_STD)

    def _preprocess(self, input_shape: tuple[int, ...], mean: float, std: float) -> "SoundPreprocess":
        return SoundPreprocess(
            max_length=input_shape[0],
            mean=mean,
            std=std,
            sampling_rate=self.sampling_rate,
            num_mel_bins=self.num_mel_bins,
        )


@dataclass(frozen=True, kw_only=True)
class SoundPreprocess:
    """From stored log-mel features to what the backbone wants.

    Attributes:
        max_length: L.
        mean, std: of the features; as AST has it, (x - mean) / (2 std).
    """

    kind: ClassVar[str] = SoundStorage.kind
    max_length: int
    mean: float
    std: float
    sampling_rate: int = 16_000
    num_mel_bins: int = 128

    def __post_init__(self) -> None:
        if self.std <= 0:
            raise ConfigError(f"a standard deviation must be above zero, got {self.std}")

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        """(B, F, M) -> (B, L, M): the first window, filled up with zeros, then normalised."""
        features = features[:, : self.max_length]
        missing = self.max_length - features.shape[1]
        if missing > 0:
            features = F.pad(features, (0, 0, 0, missing))
        return (features - self.mean) / (2 * self.std)

    def windows(self, features: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """What the model is to see of each clip, window after window, for an answer that is their average.

        Returns:
            Model inputs (B, L, M), each with the weight (B,) that it has in a clip's average: its share of the
            clip's frames. None is 1, where one window holds all.
        """
        if not self.is_cropped(features):
            return [(self(features), None)]
        lengths = clip_lengths(features)
        found: list[tuple[torch.Tensor, torch.Tensor | None]] = []
        for start in range(0, int(lengths.max().clamp_min(1)), self.max_length):
            own = (lengths - start).clamp(0, self.max_length)
            found.append((self(features[:, start : start + self.max_length]), own / lengths.clamp_min(1)))
        return found

    def is_cropped(self, features: torch.Tensor) -> bool:
        """Whether clips may be longer than the window, which then is a part of them, drawn in training."""
        return features.shape[1] > self.max_length

    def draw_augmentation(
        self, count: int, config: SoundAugmentConfig, generator: torch.Generator
    ) -> SoundAugmentation:
        """What is varied in each of `count` clips; at the least, where a longer one is cropped."""
        return SoundAugmentation.draw(count, config, generator, window=self.max_length, blank=self.mean)

    @property
    def storage(self) -> SoundStorage:
        """How the sounds it takes are stored."""
        return SoundStorage(self.sampling_rate, self.num_mel_bins)

    def stored_as(self, storage: Storage) -> "SoundPreprocess":
        """The same: sounds are stored in one way."""
        return self

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(L, M)."""
        return (self.max_length, self.num_mel_bins)

    def to_dict(self) -> Json:
        return {"kind": self.kind, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SoundPreprocess":
        names = ("max_length", "mean", "std", "sampling_rate", "num_mel_bins")
        return cls(**{name: values[name] for name in names})


def measure_features(features: torch.Tensor) -> tuple[float, float]:
    """Mean and standard deviation of the features (N, F, M), over the frames that are there."""
    count, total, squares = 0, 0.0, 0.0
    for chunk in features.split(256):
        values = chunk[(chunk != 0).any(dim=2)].double()  # (frames, M)
        count, total = count + values.numel(), total + float(values.sum())
        squares += float(values.square().sum())
    mean = total / max(count, 1)
    return mean, max(squares / max(count, 1) - mean**2, 1e-12) ** 0.5


SOUNDS = InputKind(SoundStorage)
