"""One image file to pixels: the one way of training, of service and of whoever else reads images; knows no torch.

What is decided once for a model (how an image is fitted into the square, at what scale a JPEG is decoded, which grey
levels become black and white) is an `ImageDecoding`, which checkpoints and bundles store with their preprocessing.
Pillow is imported when a file is opened or an image resized, since a server that is given arrays needs none.

Letters: H and W pixels of an image, C colour channels (1 or 3), S pixels of the model's side.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pfm.errors import ConfigError
from pfm.storage import Json

if TYPE_CHECKING:
    from pfm.data.pixels import Remark, Source

FIT = ("stretch", "crop", "pad")
DECODE = ("fast", "full")
RESAMPLE = ("bilinear", "bicubic")
FIT_AUTO = "auto"
FULL_DEPTH, RANGE_OF_DATA = "full", "range"


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
        keep: what is kept of each side of the fitted image, its middle, once it is brought to `size`: 224/256 where a
            backbone's processor resizes to 256 and cuts 224 out.
        background: grey level that shows through where an image is transparent; None leaves transparency out.
    """

    size: int | None = None
    fit: str = "stretch"
    decode: str = "full"
    resample: str = "bilinear"
    window: tuple[float, float] | None = None
    background: int | None = 255
    keep: float = 1.0

    def __post_init__(self) -> None:
        for what, value, known in (
            ("--fit", self.fit, FIT),
            ("--decode", self.decode, DECODE),
            ("resampling", self.resample, RESAMPLE),
        ):
            if value not in known:
                raise ConfigError(f"{what} {value!r} is not known; use one of {', '.join(known)}")
        if not 0 < self.keep <= 1:
            raise ConfigError(f"what is kept of an image's side is above 0 and at most 1, got {self.keep:g}")
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
            keep=values.get("keep", 1.0),
        )


BEFORE = ImageDecoding(background=None)
"""What holds for checkpoints and bundles that say nothing of it, since they are older."""


def read_window(depth: str) -> tuple[float, float] | None:
    """The window of grey levels that `--depth` gives as LOW:HIGH; None for the words that it takes.

    Raises:
        ConfigError: neither.
    """
    if depth in (FULL_DEPTH, RANGE_OF_DATA):
        return None
    low, _, high = depth.partition(":")
    try:
        window = (float(low), float(high))
    except ValueError:
        window = (0.0, 0.0)
    if not -math.inf < window[0] < window[1] < math.inf:
        raise ConfigError(
            f"--depth {depth!r} is not known; use {FULL_DEPTH}, {RANGE_OF_DATA}, or LOW:HIGH, such as 0:4095"
        )
    return window


def stored_decoding(preprocess: Mapping[str, Any]) -> ImageDecoding | None:
    """That of a preprocessing as it is stored; None where no data has decided it.

    Raises:
        KeyError: a value is missing.
        ConfigError: a value that is not known.
    """
    values = preprocess.get("decoding", BEFORE.to_dict())
    return None if values is None else ImageDecoding.from_dict(values)


def decode_image(source: "Source", decoding: ImageDecoding, remark: "Remark | None" = None) -> np.ndarray:
    """A file as (H, W, C) uint8: turned as its EXIF says, transparency laid on a ground, fitted.

    Args:
        source: a file's bytes or path, or a PIL image, which is used up.
        remark: is told what is odd about the image.

    Raises:
        One of `pfm.data.pixels.UNREADABLE`: not an image, damaged, too large to be safe, or without a known range of
            grey levels.
    """
    from pfm.data.pixels import decode, opened

    image = opened(source)
    if decoding.decode == "fast" and decoding.size is not None:
        needed = math.ceil(decoding.size / decoding.keep)
        height, width = _inner((image.height, image.width), needed, decoding.fit)
        image.draft(None, (width, height))  # of a JPEG, at least so large; does nothing for others
    pixels = decode(image, window=decoding.window, background=decoding.background, remark=remark)
    return fit_pixels(pixels, decoding)


def fit_pixels(pixels: np.ndarray, decoding: ImageDecoding) -> np.ndarray:
    """(H, W, C) uint8 -> (S, S, C) uint8, or to a square of its own size, or as it is; see `ImageDecoding.size`."""
    size, fit = decoding.size, decoding.fit
    if size is not None:
        pixels = _resized(pixels, size, decoding)
    elif fit == "crop":
        pixels = _middle_square(pixels)
    return _padded(pixels) if fit == "pad" else pixels


def sources_range(sources: Iterable["Source"]) -> tuple[float, float] | None:
    """Lowest and highest grey level over all files of more than 8 bits; None where there are none.

    Files that cannot be read are passed over; whoever decodes them will name them.
    """
    from pfm.data.pixels import UNREADABLE, grey_range, opened

    lows: list[float] = []
    highs: list[float] = []
    for source in sources:
        try:
            found = grey_range(opened(source))
        except UNREADABLE:
            continue
        if found is not None:
            lows.append(found[0])
            highs.append(found[1])
    return (min(lows), max(highs)) if lows and min(lows) < max(highs) else None


def have_one_small_size(sources: Iterable["Source"], size: int) -> bool:
    """Whether all images are of one size, and that not above `size` either way; reads headers, up to the first other.

    Files that cannot be read are passed over.
    """
    from pfm.data.pixels import UNREADABLE, opened, seen_size

    first: tuple[int, int] | None = None
    for source in sources:
        try:
            image = opened(source)
            with image:
                found = seen_size(image)
        except UNREADABLE:
            continue
        first = first or found
        if found != first or max(found) > size:
            return False
    return True


def typical_size(sources: Iterable["Source"]) -> tuple[int, int] | None:
    """Height and width of the image that is in the middle by its number of pixels; reads headers.

    Files that cannot be read are passed over; None where no other is among them.
    """
    from pfm.data.pixels import UNREADABLE, opened, seen_size

    sizes: list[tuple[int, int]] = []
    for source in sources:
        try:
            with opened(source) as image:
                sizes.append(seen_size(image))
        except UNREADABLE:
            continue
    return sorted(sizes, key=math.prod)[len(sizes) // 2] if sizes else None


def _inner(shape: tuple[int, int], size: int, fit: str) -> tuple[int, int]:
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
    box = (0.0, 0.0, float(width), float(height))
    if decoding.fit == "crop" or decoding.keep < 1:
        # in fractions of a pixel, so that an image decoded at a smaller scale is cropped alike
        down, across = (min(height, width),) * 2 if decoding.fit == "crop" else (height, width)
        down, across = down * decoding.keep, across * decoding.keep
        left, top = (width - across) / 2, (height - down) / 2
        box = (left, top, left + across, top + down)
    shape = _inner((height, width), size, decoding.fit)
    if (height, width) == shape and decoding.keep == 1:
        return pixels
    from pfm.data.pixels import resized

    return resized(pixels, shape, box, decoding.resample)
