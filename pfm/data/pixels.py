"""From a PIL image to uint8 pixels, the same way in training and in service; knows no torch."""

from typing import Any

import numpy as np
from PIL import UnidentifiedImageError
from PIL.Image import DecompressionBombError

# of files that a folder of images is looked through for
ENDINGS = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm", ".jp2",
)  # fmt: skip

# what PIL raises for a file that is damaged, too large to be safe, or not an image
UNREADABLE = (OSError, ValueError, SyntaxError, DecompressionBombError)


def explain_unreadable(error: Exception) -> str:
    """What is wrong with a file, for the end of a sentence."""
    if isinstance(error, OSError) and error.strerror:  # it is not there, or may not be read
        return error.strerror
    return "it is not an image of a known kind" if isinstance(error, UnidentifiedImageError) else str(error)


def decode(image: Any) -> np.ndarray:
    """A PIL image as (H, W, 1 or 3) uint8.

    Raises:
        ValueError: not an image, or one whose pixels cannot be made grey or RGB.
    """
    if image is None:
        raise ValueError("there is none")
    with image:
        if image.mode == "F":
            raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
        if image.mode.startswith("I"):  # I;16, I;16B, …: more than 8 bits
            return _scale_to_uint8(np.asarray(image, dtype=np.float64), is_16_bit=image.mode != "I")[:, :, None]
        if image.mode in ("1", "L", "LA"):
            return np.asarray(image.convert("L"))[:, :, None]
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")  # PIL's own detour; it warns without
        return np.asarray(image.convert("RGB"))


def _scale_to_uint8(values: np.ndarray, *, is_16_bit: bool) -> np.ndarray:
    """16-bit data scaled by 1/257; 32-bit data too, unless all of it is in 0..255."""
    highest = values.max(initial=0)
    if not (highest <= 65535 and values.min(initial=0) >= 0):  # nan too
        raise ValueError("grey levels outside 0..65535")
    return np.round(values / 257 if is_16_bit or highest > 255 else values).astype(np.uint8)
