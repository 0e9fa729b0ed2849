"""Sounds as a graph takes them, without torch: resampling, windows, and Kaldi's log-mel features.

The same as `pfm.data.sounds` computes with torch and torchaudio; a test compares them. A sound of any
length is read block by block and cut into windows, so memory does not grow with it.

Letters: B windows, n samples, L frames of the model's window, M mel bins.
"""

import functools
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pfm.data.frames import LOWEST_HZ, PREEMPHASIS, SMALLEST_ENERGY, fft_size, frame_size, hop_size, num_frames
from pfm.data.waves import UNREADABLE, Source, check_rate, explain_sound, stream_sound, too_short
from pfm.errors import DataError
from pfm_export.serving import fields

# of a manifest that can be meant: samples a second, mel bins, frames of a window
LARGEST_RATE, LARGEST_BINS, LARGEST_FRAMES = 1_000_000, 4096, 1 << 16
MOST_KERNELS = 8  # for resampling, that are kept; a file may have any rate
Floats = npt.NDArray[np.float32]

# of torchaudio's resampling: zero crossings of the sinc on each side, and where it begins to let go
_CROSSINGS, _ROLLOFF = 6, 0.99


@dataclass(frozen=True)
class Features:
    """What the manifest's `preprocess` says of the features of sounds.

    Attributes:
        rate: samples per second.
        num_mel_bins, max_length: M and L.
        mean, std: model input is (x - mean) / (2 std).
    """

    rate: int
    num_mel_bins: int
    max_length: int
    mean: float
    std: float

    @classmethod
    def of(cls, preprocess: Mapping[str, Any]) -> "Features":
        """
        Raises:
            KeyError, ValueError: something is missing, of another type, or out of all bounds.
        """
        return cls(
            rate=fields.size(preprocess["sampling_rate"], LARGEST_RATE),
            num_mel_bins=fields.size(preprocess["num_mel_bins"], LARGEST_BINS),
            max_length=fields.size(preprocess["max_length"], LARGEST_FRAMES),
            mean=fields.real(preprocess["mean"]),
            std=fields.positive(preprocess["std"]),
        )

    @property
    def frame(self) -> int:
        """Samples of one frame, 25 ms."""
        return frame_size(self.rate)

    @property
    def hop(self) -> int:
        """Samples from one frame to the next, 10 ms."""
        return hop_size(self.rate)

    @property
    def window(self) -> int:
        """Samples of the L frames of one window."""
        return (self.max_length - 1) * self.hop + self.frame

    @property
    def fft_size(self) -> int:
        """The power of two that a frame is filled up to."""
        return fft_size(self.rate)

    def num_frames(self, num_samples: int) -> int:
        """Frames of so many samples, within one window."""
        return min(self.max_length, num_frames(num_samples, self.rate))


@dataclass(frozen=True)
class Windows:
    """Windows of several sounds, one batch.

    Attributes:
        owners: (B,) place of each one's sound.
        frames: (B,) frames that each holds, its weight in the sound's average.
        samples: (n,) float32 of each.
    """

    owners: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    samples: list[Floats]


def windows(sounds: Sequence[Any], features: Features, *, batch: int) -> Iterator[Windows]:
    """Cut sounds into windows and hand them out in batches.

    Args:
        sounds: file names, arrays (n,) float32 at the model's rate, or pairs (array, rate).

    Raises:
        DataError: a sound that cannot be read, is too short, or none at all.
    """
    if len(sounds) == 0:
        raise DataError("no sound was given")
    owners: list[int] = []
    kept: list[Floats] = []
    for place, sound in enumerate(sounds):
        for samples in _windows_of(sound, features, f"sound {place}"):
            owners.append(place)
            kept.append(samples)
            if len(kept) == batch:
                yield _batch(owners, kept, features)
                owners, kept = [], []
    if kept:
        yield _batch(owners, kept, features)


def _batch(owners: list[int], kept: list[Floats], features: Features) -> Windows:
    return Windows(np.array(owners), np.array([features.num_frames(len(samples)) for samples in kept]), kept)


def opened(sound: Any, rate: int, place: str) -> tuple[str, Iterator[tuple[Floats, int]]]:
    """What to call a sound, and its blocks (n,) with their rate; what is wrong with it is said when they are read.

    Args:
        sound: a file name, its bytes, an array (n,) at `rate`, or a pair of an array and its rate.
        place: what to call one that is not a file.
    """
    source = cast("Source", sound) if isinstance(sound, str | os.PathLike | bytes) else None
    name = place if source is None or isinstance(source, bytes) else os.fspath(source)
    return name, _given(sound, rate) if source is None else stream_sound(source)


def _windows_of(sound: Any, features: Features, place: str) -> Iterator[Floats]:
    name, blocks = opened(sound, features.rate, place)
    rest, total = np.zeros(0, np.float32), 0
    try:
        for block in resampled(blocks, features.rate):
            rest, total = np.concatenate([rest, block]), total + len(block)
            while len(rest) >= features.window:
                yield rest[: features.window]
                rest = rest[features.max_length * features.hop :]
        if total < features.frame:
            raise ValueError(too_short(total, features.rate, features.frame))
    except UNREADABLE as error:
        raise DataError(f"cannot read {name}: {explain_sound(error)}") from error
    if features.num_frames(len(rest)):
        yield rest


def _given(sound: Any, usual: int) -> Iterator[tuple[Floats, int]]:
    """Samples (n,) and their rate, as one block.

    Raises:
        ValueError: another shape or type, or samples that are not numbers.
    """
    given, rate = cast("tuple[Any, Any]", sound) if isinstance(sound, tuple) else (sound, usual)
    samples: npt.NDArray[Any] = np.asarray(given)
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"samples must be floating-point of shape (n,), got {samples.dtype} {samples.shape}")
    if not np.isfinite(samples).all():
        raise ValueError("it holds samples that are NaN or infinite")
    if int(rate) <= 0:
        raise ValueError(f"its rate must be above zero samples per second, got {rate}")
    yield samples.astype(np.float32), int(rate)


def resample(samples: Floats, rate: int, wanted: int) -> Floats:
    """(n,) float32 at `rate` -> (n',) at `wanted` samples per second, as torchaudio does it."""
    return np.concatenate(list(resampled([(samples, rate)], wanted)) or [np.zeros(0, np.float32)])


def resampled(blocks: Iterable[tuple[Floats, int]], wanted: int) -> Iterator[Floats]:
    """Blocks at the rate that is wanted; where one ends does not show."""
    buffer: Floats | None = None
    kernel: Floats = np.zeros((1, 1), np.float32)
    width, step, made, total = 0, 1, 0, 0
    for samples, rate in blocks:
        if rate == wanted:
            yield samples
            continue
        if buffer is None:
            check_rate(rate, wanted)
            kernel, width, step = _sinc(rate, wanted)
            buffer = np.zeros(width, np.float32)
        total += len(samples)
        buffer = np.concatenate([buffer, samples])
        count = (len(buffer) - kernel.shape[1]) // step + 1  # steps whose every sample is there
        if count > 0:
            yield _convolved(buffer, kernel, step, count)
            buffer, made = buffer[count * step :], made + count * len(kernel)
    if buffer is not None:
        left = -(-total * len(kernel) // step) - made  # ceil
        buffer = np.concatenate([buffer, np.zeros(width + step, np.float32)])
        count = (len(buffer) - kernel.shape[1]) // step + 1
        if left > 0 and count > 0:
            yield _convolved(buffer, kernel, step, count)[:left]


def _convolved(buffer: Floats, kernel: Floats, step: int, count: int) -> Floats:
    views: Floats = np.lib.stride_tricks.sliding_window_view(buffer, kernel.shape[1])[::step][:count]
    return (views @ kernel.T).reshape(-1)


@functools.lru_cache(maxsize=MOST_KERNELS)
def _sinc(rate: int, wanted: int) -> tuple[Floats, int, int]:
    """Kernels (phases, taps) of a windowed sinc, the taps before a sample, and the samples of a step."""
    divisor = math.gcd(rate, wanted)
    old, new = rate // divisor, wanted // divisor
    base = min(old, new) * _ROLLOFF
    width = math.ceil(_CROSSINGS * old / base)
    times = (np.arange(0, -new, -1)[:, None] / new + np.arange(-width, width + old)[None] / old) * base
    times = times.clip(-_CROSSINGS, _CROSSINGS)
    taper = np.cos(times * np.pi / _CROSSINGS / 2) ** 2
    return (np.sinc(times) * taper * base / old).astype(np.float32), width, old


def model_input(samples: Sequence[Floats], features: Features) -> Floats:
    """(B, L, M) from the samples (n,) of each window: log-mel features, filled up with zeros, normalised."""
    result = np.zeros((len(samples), features.max_length, features.num_mel_bins), np.float32)
    for row, window in enumerate(samples):
        found = log_mel(window, features)
        result[row, : len(found)] = found[: features.max_length]
    return ((result - features.mean) / (2 * features.std)).astype(np.float32)


def padded(samples: Sequence[Floats]) -> Floats:
    """(B, n) from the samples (n,) of each window, NaN behind its end, for a graph with the front end inside."""
    result = np.full((len(samples), max(map(len, samples))), np.nan, np.float32)
    for row, window in enumerate(samples):
        result[row, : len(window)] = window
    return result


def log_mel(samples: Floats, features: Features) -> Floats:
    """(n,) -> (frames, M) float32, Kaldi's log-mel filterbank."""
    frames: Floats = np.lib.stride_tricks.sliding_window_view(samples, features.frame)[:: features.hop]
    frames = frames - frames.mean(axis=1, keepdims=True, dtype=np.float32)
    before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    emphasised = (frames - np.float32(PREEMPHASIS) * before) * _hann(features.frame)
    spectrum = np.fft.rfft(emphasised, n=features.fft_size)[:, : features.fft_size // 2]
    energies = (spectrum.real**2 + spectrum.imag**2).astype(np.float32) @ mel_banks(features).T
    return np.log(np.maximum(energies, np.float32(SMALLEST_ENERGY)))


@functools.cache
def _hann(size: int) -> Floats:
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / (size - 1))).astype(np.float32)


@functools.cache
def mel_banks(features: Features) -> Floats:
    """Weights (M, fft size / 2) of the triangular bins, 20 Hz to half the sampling rate.

    In float32, as torchaudio has it: what is left of a narrow bin's weight is mostly rounding.
    """
    low, high = (1127.0 * math.log(1.0 + hertz / 700.0) for hertz in (LOWEST_HZ, features.rate / 2))
    step = np.float32((high - low) / (features.num_mel_bins + 1))
    numbers = np.arange(features.num_mel_bins, dtype=np.float32)[:, None]
    left, centre, right = (np.float32(low) + (numbers + np.float32(more)) * step for more in (0, 1, 2))
    hertz = np.float32(features.rate / features.fft_size) * np.arange(features.fft_size // 2, dtype=np.float32)
    places = np.float32(1127) * np.log(np.float32(1) + hertz / np.float32(700))[None]
    rising, falling = (places - left) / (centre - left), (right - places) / (right - centre)
    return np.maximum(np.float32(0), np.minimum(rising, falling))
