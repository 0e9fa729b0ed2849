"""Sounds as samples, without torch: windows of the model's length at most, normalised; see `pfm.data.wave_inputs`.

Letters: B windows, n samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.data.wave_windows import VARIANCE_FLOOR
from pfm.data.waves import UNREADABLE, explain_sound, too_short
from pfm.errors import DataError
from pfm_export.serving import fields
from pfm_export.serving.sounds import LARGEST_RATE, Floats, opened, resampled

LARGEST_WINDOW = 1 << 27  # samples


@dataclass(frozen=True)
class WaveSettings:
    """What the manifest's `preprocess` says of samples; see `pfm.data.wave_inputs.WavePreprocess`."""

    rate: int
    max_samples: int
    min_samples: int
    do_normalize: bool

    @classmethod
    def of(cls, preprocess: Mapping[str, Any]) -> "WaveSettings":
        """
        Raises:
            KeyError, ValueError: something is missing, of another type, or out of all bounds.
        """
        window = fields.size(preprocess["max_samples"], LARGEST_WINDOW)
        return cls(
            rate=fields.size(preprocess["sampling_rate"], LARGEST_RATE),
            max_samples=window,
            min_samples=fields.size(preprocess["min_samples"], window),
            do_normalize=preprocess["do_normalize"] is True,
        )


def windows_of(sound: Any, settings: WaveSettings, place: str) -> Iterator[Floats]:
    """The windows (n,) of one sound, in order; what is left behind the last is dropped where it is too short.

    Args:
        sound: a file name, its bytes, an array (n,) at the model's rate, or a pair of an array and its rate.
        place: what to call it in an error.

    Raises:
        DataError: it cannot be read, or is too short.
    """
    name, blocks = opened(sound, settings.rate, place)
    rest, total = np.zeros(0, np.float32), 0
    try:
        for block in resampled(blocks, settings.rate):
            rest, total = np.concatenate([rest, block]), total + len(block)
            while len(rest) >= settings.max_samples:
                yield rest[: settings.max_samples]
                rest = rest[settings.max_samples :]
        if total < settings.min_samples:
            raise ValueError(too_short(total, settings.rate, settings.min_samples))
    except UNREADABLE as error:
        raise DataError(f"cannot read {name}: {explain_sound(error)}") from error
    if len(rest) >= settings.min_samples:
        yield rest


def alike(
    sounds: Sequence[Any], settings: WaveSettings, *, batch: int
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Windows of several sounds, those of one length together: whose each is, and their samples (B, n).

    Raises:
        DataError: a sound that cannot be read, is too short, or none at all.
    """
    if len(sounds) == 0:
        raise DataError("no sound was given")
    kept: dict[int, list[tuple[int, Floats]]] = {}
    waiting = 0
    for place, sound in enumerate(sounds):
        for samples in windows_of(sound, settings, f"sound {place}"):
            kept.setdefault(len(samples), []).append((place, samples))
            waiting += len(samples)
            if len(kept[len(samples)]) == batch or waiting >= batch * settings.max_samples:
                for group in kept.values():
                    yield _together(group)
                kept, waiting = {}, 0
    for group in kept.values():
        yield _together(group)


def _together(group: Sequence[tuple[int, Floats]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    return np.array([place for place, _ in group]), np.stack([samples for _, samples in group])


def normalised(samples: npt.NDArray[np.float32], settings: WaveSettings) -> npt.NDArray[np.float32]:
    """(B, n), NaN behind the end of a row -> the same, each row with mean 0 and variance 1 where the model wants it."""
    if not settings.do_normalize:
        return samples
    mean = np.nanmean(samples, axis=1, keepdims=True, dtype=np.float32)
    variance = np.nanmean(np.square(samples - mean), axis=1, keepdims=True, dtype=np.float32)
    return ((samples - mean) / np.sqrt(variance + np.float32(VARIANCE_FLOOR))).astype(np.float32)
