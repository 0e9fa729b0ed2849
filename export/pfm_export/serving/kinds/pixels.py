"""Images as the model takes them: resized and normalised, (B, 3, S, S) float32.

Letters: B batch, S pixels of the model's side.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.data.file_names import IMAGE_ENDINGS
from pfm_export.serving.images import ImageSettings, preprocess
from pfm_export.serving.intake import as_images, check_normalised
from pfm_export.serving.kinds.base import Batch, InputKind


class PixelInput(InputKind):
    """The ordinary input of a graph for images."""

    name = "pixels"
    modality = "image"
    items = "images"
    endings = IMAGE_ENDINGS
    inputs = ("pixel_values",)
    is_model_input = True

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.settings = settings = ImageSettings.of(preprocess)
        self._brightest = max((1 - mean) / std for mean, std in zip(settings.mean, settings.std, strict=True))

    @property
    def axes(self) -> tuple[int | str, ...]:
        return (3, self.settings.size, self.settings.size)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {}

    def as_items(self, given: Any) -> Sequence[Any]:
        return as_images(given)

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        yield Batch.of_items(range(len(items)), preprocess(items, self.settings))

    def checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As of every kind; raw pixels are refused too."""
        check_normalised(inputs, self._brightest)
        return np.ascontiguousarray(inputs, dtype=self.dtype)
