"""What a decoding process does with a sound file; torch is imported when the first one is computed with."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfm.data.frames import num_frames
from pfm.data.waves import UNREADABLE, Recording, explain_sound, length_bound, read_sound
from pfm.data.workers import Outcome


def _bound(source: Any, max_seconds: float, count: Callable[[float], int]) -> Outcome:
    """How much there is in a clip at the most, (1,) int64, where `count` says how much there is in so many seconds."""
    try:
        seconds = min(length_bound(source), max_seconds)
    except UNREADABLE as error:
        return Outcome(None, explain_sound(error))
    return Outcome(np.array([count(seconds) + 2]))  # roundings of a resampling


@dataclass(frozen=True)
class SoundLook:
    """How many frames a clip has at the most, (1,) int64, from its header.

    Attributes:
        rate: samples per second that features are computed from.
        max_seconds: what of a longer clip is read.
    """

    rate: int
    max_seconds: float

    def __call__(self, source: Any) -> Outcome:
        return _bound(source, self.max_seconds, lambda seconds: num_frames(round(seconds * self.rate), self.rate))


@dataclass(frozen=True)
class SoundRow:
    """The log-mel features of a clip, (F, M) float32, as long as it is; one clip and one thread at a time.

    Attributes:
        rate: samples per second that features are computed from.
        num_mel_bins: M.
        max_seconds: what of a longer clip is read.
    """

    rate: int
    num_mel_bins: int
    max_seconds: float

    def __call__(self, source: Any) -> Outcome:
        from pfm.data.mel import MelSettings, clip_features

        settings = MelSettings(self.rate, self.num_mel_bins)
        try:
            recording = read_sound(source, max_seconds=self.max_seconds)
            features = clip_features(recording.samples, recording.rate, settings)
        except UNREADABLE as error:
            return Outcome(None, explain_sound(error))
        return Outcome(features, remarks=tuple(_remarks(recording, self.max_seconds)))


@dataclass(frozen=True)
class WaveLook:
    """How many samples a clip has at the most, (1,) int64, from its header; attributes as of `SoundLook`."""

    rate: int
    max_seconds: float

    def __call__(self, source: Any) -> Outcome:
        return _bound(source, self.max_seconds, lambda seconds: round(seconds * self.rate))


@dataclass(frozen=True)
class WaveRow:
    """The samples of a clip, (n,) float32, as many as it has; one that is zero is the smallest number above it.

    Attributes:
        rate: samples per second.
        min_samples: that a clip has to have.
        max_seconds: what of a longer clip is read.
    """

    rate: int
    min_samples: int
    max_seconds: float

    def __call__(self, source: Any) -> Outcome:
        from pfm.data.mel import clip_samples

        try:
            recording = read_sound(source, max_seconds=self.max_seconds)
            samples = clip_samples(recording.samples, recording.rate, self.rate, self.min_samples)
        except UNREADABLE as error:
            return Outcome(None, explain_sound(error))
        there = np.where(samples == 0, np.finfo(np.float32).tiny, samples)
        return Outcome(there, remarks=tuple(_remarks(recording, self.max_seconds)))


def _remarks(recording: Recording, max_seconds: float) -> list[str]:
    found: list[str] = []
    if recording.is_cut:
        found.append(f"longer than --max_seconds {max_seconds:g}, the rest of them not used")
    if recording.silent_channels:
        found.append("with a silent channel, mixed in all the same")
    if recording.is_silent:
        found.append("silent throughout")
    return found
