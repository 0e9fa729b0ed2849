"""What a decoding process does with an image file; knows no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pfm.data.decoding import ImageDecoding, decode_image
from pfm.data.pixels import UNREADABLE, explain_unreadable, opened, seen_size, stored_channels
from pfm.data.workers import Outcome


@dataclass(frozen=True)
class ImageLook:
    """Height, width and channels of an image as it would be decoded, (3,) int64, from its header.

    Attributes:
        is_sized: height and width do not matter and are 0, since all images are brought to one size.
    """

    is_sized: bool

    def __call__(self, source: Any) -> Outcome:
        try:
            image = opened(source)
            try:
                height, width = (0, 0) if self.is_sized else seen_size(image)
                return Outcome(np.array([height, width, stored_channels(image)]))
            finally:
                if image is not source:
                    image.close()
        except UNREADABLE as error:
            return Outcome(None, explain_unreadable(error))


@dataclass(frozen=True)
class ImageRow:
    """An image as it is stored, (C, H, W) uint8.

    Attributes:
        channels: C; grey is repeated where that is 3. None keeps those of the image.
    """

    decoding: ImageDecoding
    channels: int | None = None

    def __call__(self, source: Any) -> Outcome:
        remarks: list[str] = []
        try:
            pixels = decode_image(source, self.decoding, remarks.append)  # (H, W, C)
        except UNREADABLE as error:
            return Outcome(None, explain_unreadable(error))
        if self.channels == 3 and pixels.shape[2] == 1:
            pixels = np.repeat(pixels, 3, axis=2)
        return Outcome(np.ascontiguousarray(np.moveaxis(pixels, 2, 0)), remarks=tuple(remarks))


def fitted_shape(height: int, width: int, decoding: ImageDecoding) -> tuple[int, int]:
    """Height and width of an image of this size once it is decoded."""
    if decoding.size is not None:
        return decoding.size, decoding.size
    if decoding.fit == "stretch":
        return height, width
    side = min(height, width) if decoding.fit == "crop" else max(height, width)
    return side, side
