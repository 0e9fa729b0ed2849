"""What callers hand in, taken for what it obviously is or refused: one item for a list of one, numbers that are none.

A graph computes with anything of the right shape. NaN comes out as the first class, and pixels that nobody normalised
as some class: neither looks wrong.

Letters: B batch.
"""

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from pfm.errors import DataError

MOST_CHANNELS = 4  # of one image; a longer last axis is its width
# how far above the brightest pixel's value an input may be, as a resampling overshoots at an edge
OVERSHOOT = 1.5


def as_images(given: Any) -> Sequence[Any]:
    """A caller's images as a list: one alone is a list of one, an array (B, H, W) or (B, H, W, C) is B.

    An array (H, W, C) of up to four channels is one image and never H of them.
    """
    if isinstance(given, np.ndarray):
        array = cast("npt.NDArray[Any]", given)
        is_one = array.ndim < 3 or (array.ndim == 3 and array.shape[2] <= MOST_CHANNELS)
        return [array] if is_one else list(array)
    pillow = sys.modules.get("PIL.Image")  # who has an image of Pillow has loaded it
    return [given] if pillow is not None and isinstance(given, pillow.Image) else as_list(given, "image")


def as_sounds(given: Any) -> Sequence[Any]:
    """A caller's sounds as a list: one alone, or one with its rate, is a list of one; an array (B, n) is B."""
    if isinstance(given, np.ndarray):
        array = cast("npt.NDArray[Any]", given)
        return [array] if array.ndim < 2 else list(array)
    if isinstance(given, tuple):
        parts = cast("tuple[Any, ...]", given)
        if len(parts) == 2 and np.isscalar(parts[1]) and not isinstance(parts[1], str | bytes):
            return [parts]
    return as_list(given, "sound")


def as_list(given: Any, item: str) -> Sequence[Any]:
    """Items as a list; a file's name, or its bytes, is a list of one.

    Raises:
        DataError: nothing that has items.
    """
    if isinstance(given, str | os.PathLike | bytes):
        return [cast("Any", given)]
    if isinstance(given, Iterable) and not isinstance(given, Mapping):
        found = cast("Iterable[Any]", given)
        return found if isinstance(found, Sequence) else list(found)
    raise DataError(f"give a list of {item}s, or one {item}; got {type(cast('object', given)).__name__}")


def as_array(inputs: Any) -> npt.NDArray[Any]:
    """Graph inputs (B, …) that a caller made.

    Raises:
        DataError: not an array of numbers, or no input in it.
    """
    try:
        array: npt.NDArray[Any] = np.asarray(inputs)
    except ValueError as error:
        raise DataError(f"inputs must be one array, the same shape for each; {error}") from error
    if not np.issubdtype(array.dtype, np.number):
        raise DataError(f"inputs must be an array of numbers, got {type(inputs).__name__} of {array.dtype}")
    if array.ndim == 0 or len(array) == 0:
        raise DataError("no input was given")
    if array.size == 0:
        raise DataError(f"the inputs are empty: {array.shape}")
    return array


def check_finite(inputs: npt.NDArray[Any]) -> tuple[float, float]:
    """
    Returns:
        The smallest and the largest of them.

    Raises:
        DataError: a number is NaN or infinite; which input.
    """
    low, high = float(inputs.min()), float(inputs.max())
    if not (math.isfinite(low) and math.isfinite(high)):  # of NaN, NaN; without an array of bools
        bad = next(place for place, row in enumerate(inputs) if not np.isfinite(row).all())
        raise DataError(f"input {bad} holds numbers that are NaN or infinite")
    return low, high


def check_normalised(inputs: npt.NDArray[Any], brightest: float) -> None:
    """Refuse raw pixels, 0 to 255, where normalised ones are taken; else as `check_finite`.

    Args:
        brightest: what the largest pixel value becomes.

    Raises:
        DataError: whole numbers, or nothing below zero and much above what a pixel can be.
    """
    if not np.issubdtype(inputs.dtype, np.floating):
        what = f"of {inputs.dtype}"
    else:
        low, high = check_finite(inputs)
        if low < 0 or high <= OVERSHOOT * max(brightest, 1.0):
            return
        what = f"up to {high:g}"
    raise DataError(
        f"the input does not fit the graph: it takes normalised pixels (at most {brightest:.3g}), got numbers {what}; "
        "give images to predict_images, or normalise them as the manifest's preprocess says"
    )
