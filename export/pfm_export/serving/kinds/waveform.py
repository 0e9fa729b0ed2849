"""Sounds as samples at the model's rate, (B, n) float32, and their number: the graph computes the features.

A row shorter than the others ends in NaN, which never reaches the graph.

Letters: B batch, n samples, L frames of the model's window, M mel bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.storage import Json
from pfm_export.serving.kinds.base import Batch, InputKind
from pfm_export.serving.kinds.features import FEATURES, WINDOWS_AT_ONCE, window_batch
from pfm_export.serving.sounds import Features, model_input, padded, windows


class WaveformInput(InputKind):
    """The input of a graph exported with `--with_frontend`; windows and weights as for features."""

    name = "waveform"
    modality = "audio"
    items = "sounds"
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

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        for batch in windows(items, self.settings, batch=WINDOWS_AT_ONCE):
            yield window_batch(batch, padded(batch.samples))

    def model_input(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return model_input([row[~np.isnan(row)] for row in inputs], self.settings)

    def feed(self, inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        is_there = ~np.isnan(inputs)
        counts = is_there.sum(axis=1, dtype=np.int32)
        return dict(zip(self.inputs, (np.where(is_there, inputs, np.float32(0)), counts), strict=True))

    def notes(self) -> Json:
        return {"features": FEATURES}
