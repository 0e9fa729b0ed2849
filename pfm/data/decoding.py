"""One image file to pixels: the one way of training, of service and of whoever else reads images; knows no torch.

What is decided once for a model (how an image is fitted into the square, at what scale a JPEG is decoded, which grey
levels become black and white) is an `ImageDecoding`, which checkpoints and bundles store with their preprocessing.

Letters: H and W pixels of an image, C colour channels (1 or 3), S pixels of the model's side.
"""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pfm.data.pixels import UNREADABLE, Remark, decode, explain_unreadable, grey_range
from pfm.errors import ConfigError
from pfm.storage import Json

__all__ = [
    "BEFORE", "DECODE", "FIT", "UNREADABLE", "ImageDecoding", "decode_image", "explain_unreadable", "fit_pixels",
    "measure_range",
]  # fmt: skip

FIT = ("stretch", "crop", "pad")
DECODE = ("full", "fast")
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True, kw_only=True)
class ImageDecoding:
    """How a file becomes pixels.

    Attributes:
        size: S, to which an image is brought in whole grey levels; None keeps its own size (cropped or padded to a
            square, if so asked), and the preprocessing resizes it.
        fit: how an image becomes square: "stretch" both sides, "crop" the middle square, or "pad" with black.
        decode: "full", or "fast": JPEG at the nearest of the scales 1/2, 1/4, 1/8 that is not below `size`.
        resample: "bilinear" or "bicubic", both with antialiasing.
        window: the grey levels of images of more than 8 bits that become 0 and 255; None is the full range.
        background: grey level that shows through where an image is transparent; None leaves transparency out.
    """

    size: int | None = None
    fit: str = "stretch"
    decode: str = "full"
    resample: str = "bilinear"
    window: tuple[float, float] | None = None
    background: int | None = 255

    def __post_init__(self) -> None:
        for what, value, known in (
            ("--fit", self.fit, FIT),
            ("decoding", self.decode, DECODE),
            ("resampling", self.resample, tuple(_FILTERS)),
        ):
            if value not in known:
                raise ConfigError(f"{what} {value!r} is not known; use one of {', '.join(known)}")
        if self.window is not None:
            low, high = self.window
            if not low < high:
                raise ConfigError(f"a window of grey levels runs from a lower to a higher one, got {low:g}:{high:g}")
            object.__setattr__(self, "window", (low, high))

    def sized(self, size: int | None) -> "ImageDecoding":
        """The same to another size."""
        return replace(self, size=size)

    def to_dict(self) -> Json:
        return {**asdict(self), "window": None if self.window is None else list(self.window)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ImageDecoding":
        """What `to_dict` wrote.

        Raises:
            KeyError: a value is missing.
            ConfigError: a value that is not known.
        """
        window = values["window"]
        return cls(
            size=values["size"],
            fit=values["fit"],
            decode=values["decode"],
            resample=values["resample"],
            window=None if window is None else (window[0], window[1]),
            background=values["background"],
        )


BEFORE = ImageDecoding(background=None)
"""What holds for checkpoints and bundles that say nothing of it, since they are older."""


def decode_image(
    source: "bytes | Path | Image.Image", decoding: ImageDecoding, remark: Remark | None = None
) -> np.ndarray:
    """A file as (H, W, C) uint8: turned as its EXIF says, transparency laid on a ground, fitted.

    Args:
        source: a file's bytes or path, or a PIL image, which is used up.
        remark: is told what is odd about the image.

    Raises:
        One of `UNREADABLE`: not an image, damaged, too large to be safe, or without a known range of grey levels.
    """
    image = _opened(source)
    if decoding.decode == "fast" and decoding.size is not None:
        image.draft(None, _at_least(image.size, decoding))  # of a JPEG; does nothing for others
    pixels = decode(image, window=decoding.window, background=decoding.background, remark=remark)
    return fit_pixels(pixels, decoding)


def measure_range(source: "bytes | Path | Image.Image") -> tuple[float, float] | None:
    """Lowest and highest grey level of a file of more than 8 bits; None for others.

    Raises:
        One of `UNREADABLE`.
    """
    return grey_range(_opened(source))


def fit_pixels(pixels: np.ndarray, decoding: ImageDecoding) -> np.ndarray:
    """(H, W, C) uint8 -> (S, S, C) uint8, or to a square of its own size, or as it is; see `ImageDecoding.size`."""
    size, fit = decoding.size, decoding.fit
    if fit == "crop" and size is None:
        return _middle_square(pixels)
    if size is not None:
        pixels = _resized(pixels, size, decoding)
    return _padded(pixels) if fit == "pad" else pixels


def _opened(source: "bytes | Path | Image.Image") -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _at_least(size: tuple[int, int], decoding: ImageDecoding) -> tuple[int, int]:
    """Width and height that a JPEG has to have at the least when it is decoded, of its own `size`."""
    assert decoding.size is not None
    width, height = size
    inner = _inner((height, width), decoding.size, decoding.fit)
    return inner[1], inner[0]


def _inner(shape: tuple[int, ...], size: int, fit: str) -> tuple[int, int]:
    """Height and width that an image of this shape fills of the square of side `size`."""
    if fit != "pad":
        return size, size
    longest = max(shape)
    return max(1, round(shape[0] * size / longest)), max(1, round(shape[1] * size / longest))


def _middle_square(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def _padded(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    side = max(height, width)
    square = np.zeros((side, side, pixels.shape[2]), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


def _resized(pixels: np.ndarray, size: int, decoding: ImageDecoding) -> np.ndarray:
    height, width = pixels.shape[:2]
    box = (0.0, 0.0, width, height)
    if decoding.fit == "crop":  # in fractions of a pixel, so that an image decoded at a smaller scale is cropped alike
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    shape = _inner((height, width), size, decoding.fit)
    if (height, width) == shape:
        return pixels
    is_grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if is_grey else pixels))
    resized = np.asarray(image.resize((shape[1], shape[0]), _FILTERS[decoding.resample], box))
    return resized[:, :, None] if is_grey else resized
