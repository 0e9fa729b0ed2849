"""Images as a graph takes them; numpy, and Pillow where one is not an array or has to be resized.

Letters: B batch, H and W pixels of an image, S pixels of the model's side.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pfm.data.decoding import ImageDecoding, decode_image, fit_pixels, stored_decoding
from pfm.errors import DataError
from pfm_export.serving import fields

LARGEST_SIDE = 8192  # pixels of a model's side
Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageSettings:
    """What the manifest's `preprocess` says of images.

    Attributes:
        size: S.
        mean, std: per channel, of pixel values in [0, 1].
        resample: "bilinear" or "bicubic", both with antialiasing.
        decoding: how files were decoded in training.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: str
    decoding: ImageDecoding

    @classmethod
    def of(cls, preprocess: Mapping[str, Any]) -> "ImageSettings":
        """
        Raises:
            KeyError, ValueError: something is missing, of another type, or out of all bounds.
        """
        return cls(
            fields.size(preprocess["size"], LARGEST_SIDE),
            fields.many(preprocess["mean"], fields.real, count=3),
            fields.many(preprocess["std"], fields.positive, count=3),
            fields.one_of(preprocess["resample"], {"bilinear": "bilinear", "bicubic": "bicubic"}),
            stored_decoding(preprocess) or ImageDecoding(),
        )


def preprocess(images: Sequence[Any], settings: ImageSettings) -> Floats:
    """Images -> (B, 3, S, S) float32: decoded, fitted, resized and normalised as in training.

    Args:
        images: file names, PIL images, or uint8 arrays (H, W) or (H, W, 3).

    Raises:
        DataError: an image that cannot be read, or none at all.
    """
    mean = np.asarray(settings.mean, np.float32).reshape(3, 1, 1) * 255
    std = np.asarray(settings.std, np.float32).reshape(3, 1, 1) * 255
    return np.stack([(_resized(array, settings) - mean) / std for array in _arrays(images, settings)])


def by_shape(images: Sequence[Any], settings: ImageSettings) -> list[tuple[list[int], Pixels]]:
    """Images decoded and fitted as in training, those of one size together: the places and (B, H, W, 3) uint8.

    Raises:
        DataError: an image that cannot be read, or none at all.
    """
    places: dict[tuple[int, ...], list[int]] = {}
    arrays = _arrays(images, settings)
    colours = [np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array for array in arrays]
    for place, array in enumerate(colours):
        places.setdefault(array.shape, []).append(place)
    return [(group, np.stack([colours[place] for place in group])) for group in places.values()]


def _arrays(images: Sequence[Any], settings: ImageSettings) -> list[Pixels]:
    """Each image as uint8, (H, W, 1) or (H, W, 3)."""
    if len(images) == 0:
        raise DataError("no image was given")
    return [_array(image, settings.decoding) for image in images]


def _array(image: Any, decoding: ImageDecoding) -> Pixels:
    is_array = isinstance(image, np.ndarray)
    array: npt.NDArray[Any] = cast("npt.NDArray[Any]", image) if is_array else _decoded(image, decoding)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(f"an image must be uint8 of shape H x W or H x W x 3, got {array.dtype} {array.shape}")
    if 0 in array.shape:
        raise DataError(f"an image must have pixels, got {array.shape}")
    array = array if array.ndim == 3 else array[:, :, None]
    return fit_pixels(array, decoding) if is_array else array


def _decoded(image: Any, decoding: ImageDecoding) -> npt.NDArray[Any]:
    """Of a file name or a PIL image; of anything else, what numpy makes of it."""
    from PIL import Image

    from pfm.data.pixels import UNREADABLE, explain_unreadable

    if isinstance(image, str | os.PathLike | bytes):
        given = image if isinstance(image, bytes) else Path(cast("str | os.PathLike[str]", image))
        try:
            return decode_image(given, decoding)
        except UNREADABLE as error:
            name = "an image" if isinstance(image, bytes) else given
            raise DataError(f"cannot read {name}: {explain_unreadable(error)}") from error
    if not isinstance(image, Image.Image):
        return np.asarray(image)
    if 0 in image.size:
        raise DataError(f"an image must have pixels, got {image.size[0]} x {image.size[1]}")
    try:
        return decode_image(image.copy(), decoding)
    except UNREADABLE as error:
        raise DataError(f"cannot read a {image.mode} image: {explain_unreadable(error)}") from error


def _resized(array: Pixels, settings: ImageSettings) -> Floats:
    """(3, S, S) float32 in 0..255."""
    size = settings.size
    planes = np.moveaxis(array, 2, 0)
    if planes.shape[1:] != (size, size):
        from PIL import Image

        method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[settings.resample]
        # mode F: the same antialiased resize as in training, without rounding between the two passes
        resized = [np.asarray(Image.fromarray(p.astype(np.float32)).resize((size, size), method)) for p in planes]
        planes = np.stack(resized)
    return np.repeat(planes, 3, axis=0).astype(np.float32) if len(planes) == 1 else planes.astype(np.float32)
