"""Sounds as samples at the model's rate, (B, n) float32, and their number: the graph computes the features.

A row shorter than the others ends in NaN, which never reaches the graph.

Letters: B batch, n samples, L frames of the model's window, M mel bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.data.file_names import SOUND_ENDINGS
from pfm.errors import DataError
from pfm.storage import Json
from pfm_export.serving.intake import as_sounds
from pfm_export.serving.kinds.base import Batch, InputKind
from pfm_export.serving.kinds.features import FEATURES, WINDOWS_AT_ONCE, window_batch
from pfm_export.serving.sounds import Features, model_input, padded, windows


class WaveformInput(InputKind):
    """The input of a graph exported with `--with_frontend`; windows and weights as for features."""

    name = "waveform"
    modality = "audio"
    items = "sounds"
    endings = SOUND_ENDINGS
    inputs = ("waveform", "num_samples")
    option = "--with_frontend"
    gist = "takes samples"

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.settings = Features.of(preprocess)

    @property
    def axes(self) -> tuple[int | str, ...]:
        return ("samples",)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"samples": self.settings.window}

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (self.settings.max_length, self.settings.num_mel_bins)

    def as_items(self, given: Any) -> Sequence[Any]:
        return as_sounds(given)

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        for batch in windows(items, self.settings, batch=WINDOWS_AT_ONCE):
            yield window_batch(batch, padded(batch.samples))

    def model_input(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return model_input([row[~np.isnan(row)] for row in inputs], self.settings)

    def checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As of every kind, but that NaN stands behind the end of a clip.

        Raises:
            DataError: NaN before the end, a clip of nothing else, or infinite samples.
        """
        check_ends(inputs)
        return np.ascontiguousarray(inputs, dtype=self.dtype)

    def feed(self, inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self.inputs, counted(inputs), strict=True))

    def notes(self) -> Json:
        return {"features": FEATURES}


def check_ends(inputs: npt.NDArray[Any]) -> None:
    """
    Raises:
        DataError: NaN before the end of a row (B, n), a row of nothing else, or infinite samples.
    """
    is_gone = np.isnan(inputs)
    bad = is_gone.all(axis=-1) | (is_gone[..., :-1] & ~is_gone[..., 1:]).any(axis=-1) | np.isinf(inputs).any(axis=-1)
    if bad.any():
        raise DataError(
            f"input {int(bad.reshape(-1).argmax())} holds samples that are NaN or infinite; NaN may only stand "
            "behind the end of a clip"
        )


def counted(inputs: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    """Samples (B, n) with zeros in place of NaN, and the number of those that are there (B,)."""
    is_there = ~np.isnan(inputs)
    return np.where(is_there, inputs, np.float32(0)), is_there.sum(axis=1, dtype=np.int32)
