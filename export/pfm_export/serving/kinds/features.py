"""Sounds as the model takes them: log-mel features, normalised, (B, L, M) float32.

Letters: B batch, L frames of the model's window, M mel bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pfm.data.file_names import SOUND_ENDINGS
from pfm.data.frames import FRAME_SECONDS, HOP_SECONDS, LOWEST_HZ, PREEMPHASIS, SMALLEST_ENERGY
from pfm.storage import Json
from pfm_export.serving.intake import as_sounds
from pfm_export.serving.kinds.base import Batch, InputKind
from pfm_export.serving.sounds import Features, Windows, model_input, windows

WINDOWS_AT_ONCE = 16  # in one pass
# how log-mel features are made, for those who make them elsewhere
FEATURES: Json = {
    "kind": "kaldi_fbank", "frame_ms": round(1000 * FRAME_SECONDS), "hop_ms": round(1000 * HOP_SECONDS),
    "window": "hann, symmetric", "preemphasis": PREEMPHASIS, "remove_dc_offset": True, "dither": 0,
    "low_hz": LOWEST_HZ, "power": 2, "log_floor": SMALLEST_ENERGY, "snip_edges": True, "missing_frames": 0.0,
    "normalised": "(x - mean) / (2 * std)",
}  # fmt: skip


class FeatureInput(InputKind):
    """The ordinary input of a graph for sounds.

    A sound longer than the model's window is cut into windows, each with the weight of the frames that it holds.
    """

    name = "features"
    modality = "audio"
    items = "sounds"
    endings = SOUND_ENDINGS
    inputs = ("input_values",)
    is_model_input = True

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.settings = Features.of(preprocess)

    @property
    def axes(self) -> tuple[int | str, ...]:
        return (self.settings.max_length, self.settings.num_mel_bins)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {}

    def as_items(self, given: Any) -> Sequence[Any]:
        return as_sounds(given)

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        for batch in windows(items, self.settings, batch=WINDOWS_AT_ONCE):
            yield window_batch(batch, model_input(batch.samples, self.settings))

    def notes(self) -> Json:
        return {"features": FEATURES}


def window_batch(batch: Windows, inputs: np.ndarray[Any, Any]) -> Batch:
    """Windows of sounds as graph inputs (B, …), each with its sound and weight."""
    return Batch(inputs, batch.owners, batch.frames.astype(np.float64))
