"""Images as they are, (B, H, W, 3) uint8: the graph resizes and normalises.

Letters: B batch, H and W pixels of an image, S pixels of the model's side.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.data.file_names import IMAGE_ENDINGS
from pfm.errors import DataError
from pfm_export.serving.images import ImageSettings, by_shape, preprocess
from pfm_export.serving.intake import as_images
from pfm_export.serving.kinds.base import Batch, InputKind


class ImageInput(InputKind):
    """The input of a graph exported with `--uint8_input`: decoded, and square where the model crops or pads."""

    name = "images"
    modality = "image"
    items = "images"
    endings = IMAGE_ENDINGS
    inputs = ("images",)
    dtype = np.uint8
    option = "--uint8_input"
    gist = "takes them as they are"

    def __init__(self, preprocess: Mapping[str, Any]) -> None:
        self.settings = ImageSettings.of(preprocess)

    @property
    def axes(self) -> tuple[int | str, ...]:
        return ("height", "width", 3)

    @property
    def sizes(self) -> Mapping[str, int]:
        return {"height": self.settings.size, "width": self.settings.size}

    @property
    def model_shape(self) -> tuple[int, ...]:
        return (3, self.settings.size, self.settings.size)

    def as_items(self, given: Any) -> Sequence[Any]:
        return as_images(given)

    def batches(self, items: Sequence[Any]) -> Iterator[Batch]:
        for places, inputs in by_shape(items, self.settings):
            yield Batch.of_items(places, inputs)

    def model_input(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        return preprocess(list(inputs), self.settings)

    def random(self, batch_size: int, generator: np.random.Generator) -> npt.NDArray[Any]:
        return generator.integers(0, 256, (batch_size, *self.shape), dtype=np.uint8)

    def checked(self, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if inputs.dtype != np.uint8:
            raise DataError(f"the input does not fit the graph: it takes uint8 images, got {inputs.dtype}")
        height, width = inputs.shape[1:3] if inputs.ndim == 4 else (0, 0)
        fit = self.settings.decoding.fit
        if fit != "stretch" and height != width:
            raise DataError(
                f"the input does not fit the graph: the model takes square images (--fit {fit}), "
                f"got {width} x {height}; hand files or arrays to predict_images, which makes them square"
            )
        return super().checked(inputs)
