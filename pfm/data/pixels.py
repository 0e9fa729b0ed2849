"""From a PIL image to uint8 pixels, by rules that are stored with a model; knows no torch."""

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.Image import DecompressionBombError, DecompressionBombWarning

from pfm.data.dicom import FRAMES, INVERTED, WINDOW, is_dicom, open_dicom
from pfm.data.file_names import IMAGE_ENDINGS
from pfm.data.limits import MOST_EXPANSION, MOST_PIXELS, Counted

# what PIL raises for a file that is damaged, too large to be safe, or not an image
UNREADABLE = (OSError, ValueError, SyntaxError, DecompressionBombError, DecompressionBombWarning)
BAND_PIXELS = 1 << 22  # decoded at once; some tens of bytes of each are needed for a moment
LARGE_BYTES = 32 << 20  # unpacked; an image that is no larger may be packed as well as can be
MOST_SCANS = 100  # of a JPEG, each of which goes over all of it
AS_TEXT = (b"P1", b"P2", b"P3")  # kinds of PPM that are read number by number
_is_strict = [False]
DEEP_MODES = ("I", "F")  # beginnings of the modes of grey with more than 8 bits

# what may be remarked of an image that is read all the same; it follows a number, as in "3 images …"
TRANSPARENT = "with transparency, laid on white"
SHALLOW = "of 16 bits whose brightest grey level is below 16,384 of 65,535, so that few are left of 256 (see --depth)"
SEVERAL_FRAMES = "with several frames, of which the first is used"
Remark = Callable[[str], None]
Source = bytes | Path | Image.Image


def limit_pixels(most: int) -> None:
    """Refuse images of more pixels from now on, in this process: a file of a few kilobytes can claim billions.

    Pillow reads the limit of an image's header, before anything is unpacked; up to twice the limit it only warns,
    which is made an error.
    """
    Image.MAX_IMAGE_PIXELS = most
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\."
    )  # of broken EXIF: the image is read or refused
    warnings.filterwarnings("error", category=DecompressionBombWarning)


def pixel_limit() -> int:
    """Pixels above which this process refuses an image."""
    return Image.MAX_IMAGE_PIXELS or MOST_PIXELS


limit_pixels(MOST_PIXELS)


def refuse_bombs() -> None:
    """Refuse, in this process, files that cost far more than they look, as somebody may send them on purpose.

    Those are kinds that Pillow hands to another program (EPS goes to Ghostscript) or reads pixel by pixel in Python,
    images that unpack to more than `MOST_EXPANSION` times their size, and JPEGs of many scans. Kinds are those of
    `IMAGE_ENDINGS`, which are loaded now, and not when the first file of no known kind comes.
    """
    Image.init()
    kept = {Image.EXTENSION[ending] for ending in IMAGE_ENDINGS if ending in Image.EXTENSION}
    for kind in set(Image.OPEN) - kept:
        del Image.OPEN[kind]
    Image.ID[:] = [kind for kind in Image.ID if kind in kept]
    _is_strict[0] = True


def explain_unreadable(error: Exception) -> str:
    """What is wrong with a file, for the end of a sentence."""
    if isinstance(error, OSError) and error.strerror:  # it is not there, or may not be read
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known kind"
    if isinstance(error, DecompressionBombError | DecompressionBombWarning):
        count = next(iter(re.findall(r"\d+ pixels", str(error))), "more pixels")
        return f"it has {count}; at most {pixel_limit()} are decoded (--max_pixels)"
    return str(error)


def opened(source: Source) -> Image.Image:
    """An image of which only the header is read.

    Raises:
        One of `UNREADABLE`.
    """
    if isinstance(source, Image.Image):
        return source
    try:
        image = Image.open(Counted(source) if isinstance(source, bytes) else source)
    except UnidentifiedImageError:
        if not is_dicom(source):
            raise
        return open_dicom(source)
    if isinstance(source, bytes) and _is_strict[0]:
        _check_claim(source, image)
    return image


def _check_claim(content: bytes, image: Image.Image) -> None:
    """
    Raises:
        ValueError: the image takes far more to read than its bytes let expect.
    """
    unpacked = image.width * image.height * len(image.getbands()) * (2 if image.mode.startswith("I;16") else 1)
    if unpacked > LARGE_BYTES and unpacked > MOST_EXPANSION * len(content):
        raise ValueError(f"it unpacks to more than {MOST_EXPANSION} times its size")
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > MOST_SCANS:
        raise ValueError(f"it is a JPEG of more than {MOST_SCANS} scans")
    if content.startswith(AS_TEXT):
        raise ValueError("it is an image written as text")


def seen_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of an image once it is turned as its EXIF says; nothing is decoded."""
    width, height = image.size
    is_on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return (width, height) if is_on_its_side else (height, width)


def is_deep(image: Image.Image) -> bool:
    """Whether it is grey with more than 8 bits."""
    return image.mode.startswith(DEEP_MODES)


def resized(pixels: np.ndarray, shape: tuple[int, int], box: tuple[float, float, float, float], how: str) -> np.ndarray:
    """A part of an image (H, W, C) uint8 to another shape, in whole grey levels, with antialiasing.

    Args:
        box: left, top, right and lower edge of the part, in pixels or fractions of one.
        how: "bilinear" or "bicubic".
    """
    is_grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if is_grey else pixels))
    found = np.asarray(image.resize((shape[1], shape[0]), Image.Resampling[how.upper()], box))
    return found[:, :, None] if is_grey else found


def decode(
    image: Any,
    *,
    window: tuple[float, float] | None = None,
    background: int | None = None,
    remark: Remark | None = None,
) -> np.ndarray:
    """A PIL image, turned as its EXIF says, as (H, W, 1 or 3) uint8.

    Args:
        window: the grey levels of images of more than 8 bits that become 0 and 255; None is the full range.
        background: grey level that shows through where an image is transparent; None leaves transparency out.
        remark: is told what is odd about the image.

    Raises:
        ValueError: not an image, or one whose pixels cannot be made grey or RGB.
    """
    if image is None:
        raise ValueError("there is none")
    with image:
        if remark is not None and max(getattr(image, "n_frames", 1), image.info.get(FRAMES, 1)) > 1:
            remark(SEVERAL_FRAMES)  # all of them are gone through to count them
        remark = remark or _say_nothing
        if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):  # else it would be copied
            image = ImageOps.exif_transpose(image)
        if is_deep(image):
            return _from_deep(image, window, remark)[:, :, None]
        found = np.empty((image.height, image.width, stored_channels(image)), np.uint8)
        is_told = False
        for rows, band in _bands(image):
            if background is not None and band.has_transparency_data:
                band, is_seen = _laid_on(band, background)
                if is_seen and not is_told:
                    remark(TRANSPARENT)
                    is_told = True
            found[rows] = _shallow(band)
        return found


def _shallow(image: Image.Image) -> np.ndarray:
    """(H, W, 1 or 3) uint8 of an image of 8 bits."""
    if image.mode in ("1", "L", "LA", "La"):
        return np.asarray(image.convert("L"))[:, :, None]
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # PIL's own detour; it warns without
    return np.asarray(image.convert("RGB"))


def _bands(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """An image in bands of rows, so that what is made of it on the way is small; most images are one band."""
    height = max(1, BAND_PIXELS // max(1, image.width))
    if height >= image.height:
        yield slice(0, image.height), image
        return
    for top in range(0, image.height, height):
        bottom = min(top + height, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def stored_channels(image: Image.Image) -> int:
    """1 or 3, what `decode` makes of it; nothing is decoded."""
    return 1 if image.mode in ("1", "L", "LA", "La") or image.mode.startswith(DEEP_MODES) else 3


def grey_range(image: Any) -> tuple[float, float] | None:
    """Lowest and highest level of an image of more than 8 bits; None for others."""
    with image:
        if not is_deep(image):
            return None
        return _extremes(image)


def _extremes(image: Image.Image) -> tuple[float, float]:
    """Lowest and highest level; not a number where one of them is not."""
    found = [(values.min(initial=np.inf), values.max(initial=-np.inf)) for _, values in _levels(image)]
    return float(np.min([low for low, _ in found])), float(np.max([high for _, high in found]))


def _levels(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """Bands of an image of more than 8 bits, in float64."""
    for rows, band in _bands(image):
        yield rows, np.asarray(band, dtype=np.float64)


def _from_deep(image: Image.Image, window: tuple[float, float] | None, remark: Remark) -> np.ndarray:
    """(H, W) uint8 of grey with more than 8 bits."""
    window = window or image.info.get(WINDOW)
    is_inverted = bool(image.info.get(INVERTED))
    if window is None and image.mode == "F":
        raise ValueError(
            "floating-point pixels have no known range; give --depth LOW:HIGH, or save it with 8 or 16 bits"
        )
    factor = 1.0 if window else _factor(image, remark)
    found = np.empty((image.height, image.width), np.uint8)
    for rows, values in _levels(image):
        if window is None:
            found[rows] = np.round(values / factor).astype(np.uint8)
            continue
        low, high = window
        if np.isnan(values).any():
            raise ValueError("it has pixels that are not numbers")
        levels = np.round((values.clip(low, high) - low) * (255 / (high - low))).astype(np.uint8)
        found[rows] = 255 - levels if is_inverted else levels
    return found


def _factor(image: Image.Image, remark: Remark) -> float:
    """What 16-bit data is divided by, 257; 32-bit data too, unless all of it is in 0..255."""
    lowest, highest = _extremes(image)
    if not (highest <= 65535 and lowest >= 0):  # nan too
        raise ValueError("grey levels outside 0..65535; give --depth range or --depth LOW:HIGH")
    is_scaled = image.mode != "I" or highest > 255
    if is_scaled and highest < 16384:
        remark(SHALLOW)
    return 257.0 if is_scaled else 1.0


def _laid_on(image: Image.Image, background: int) -> tuple[Image.Image, bool]:
    """Without transparency: grey or RGB, on a ground of one grey level; and whether any of the ground is seen."""
    is_grey = image.mode in ("1", "L", "LA", "La")
    with_alpha = image.convert("RGBA")
    if with_alpha.getchannel("A").getextrema() == (255, 255):
        return (image.convert("L" if is_grey else "RGB") if image.mode != "P" else with_alpha.convert("RGB")), False
    ground = Image.new("RGBA", with_alpha.size, (background, background, background, 255))
    return Image.alpha_composite(ground, with_alpha).convert("L" if is_grey else "RGB"), True


def _say_nothing(_: str) -> None:
    pass
