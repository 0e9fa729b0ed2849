"""Sounds as models of samples take them, (B, n) float32, normalised clip by clip; or as they are.

The rows of a batch are as long as each other where `batches` makes them. Others may be handed in: a row that is shorter
ends in NaN, and what is behind its end has no part in its answer.

Letters: B batch, n samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.data.file_names import SOUND_ENDINGS
from pfm.data.wave_windows import VARIANCE_FLOOR
from pfm.storage import Json
from pfm_export.serving.intake import as_sounds
from pfm_export.serving.kinds.base import Batch, InputKind
from pfm_export.serving.kinds.features import WINDOWS_AT_ONCE
from pfm_export.serving.kinds.waveform import check_ends, counted
from pfm_export.serving.wave_windows import WaveSettings, alike, normalised

# how samples are normalised, for those who do it elsewhere
NORMALISED = f"(x - mean) / sqrt(variance + {VARIANCE_FLOOR:g}), each window by itself"


class SampleInput(InputKind):
    """The ordinary input of a graph for samples; a long sound is cut into windows, weighted by their samples."""

    name = "samples"
    modality = "waves"
    items = "sounds"
    endings = SOUND_ENDINGS
    inputs = ("input_values",)
    is_model_input = True

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.settings = WaveSettings.of(preprocess)

    @property
    def axes(self) -> tuple[int | str, ...]:
        return ("samples",)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"samples": self.settings.max_samples}

    def as_items(self, given: Any) -> Sequence[Any]:
        return as_sounds(given)

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        for owners, samples in alike(items, self.settings, batch=WINDOWS_AT_ONCE):
            weights = np.full(len(owners), float(samples.shape[1]))
            yield Batch(self._taken(samples), owners, weights)

    def checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As of every kind, but that NaN stands behind the end of a clip."""
        check_ends(inputs)
        return np.ascontiguousarray(inputs, dtype=self.dtype)

    def notes(self) -> Json:
        return {"samples": {"normalised": NORMALISED if self.settings.do_normalize else "", "behind_end": "NaN"}}

    def _taken(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return normalised(samples, self.settings)


class RawSampleInput(SampleInput):
    """The input of a graph exported with `--with_frontend`: samples as they are, and their number."""

    name = "raw_samples"
    inputs = ("waveform", "num_samples")
    is_model_input = False
    option = "--with_frontend"
    gist = "takes samples as they are"

    def model_input(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return normalised(inputs, self.settings)

    def feed(self, inputs: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return dict(zip(self.inputs, counted(inputs), strict=True))

    def notes(self) -> Json:
        return {}

    def _taken(self, samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return samples
