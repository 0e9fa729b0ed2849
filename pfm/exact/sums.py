"""Sums of products of integers, one matrix a class, and what identifies them.

Letters: n samples, P columns of the projection, E = P + 1 with the constant behind.
"""

import functools
import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]
Ints64 = npt.NDArray[np.int64]


@functools.lru_cache(maxsize=2)
def lower(size: int) -> npt.NDArray[np.bool_]:
    """(E, E), where the lower triangle is."""
    return np.tri(size, dtype=bool)


def add_products(total: Doubles, rows: npt.NDArray[np.float32]) -> None:
    """Add the products of rows (n, E) to a matrix (E, E), exactly: both hold integers below 2^53."""
    wide = rows.astype(np.float64)
    total += wide.T @ wide


def packed(matrix: Doubles) -> Ints64:
    """The lower triangle of (E, E), row by row, as integers."""
    return matrix[lower(len(matrix))].astype("<i8")


def num_packed(width: int) -> int:
    """How many integers a class's sums are, for P columns."""
    return (width + 1) * (width + 2) // 2


def unpacked(values: Doubles, size: int) -> Doubles:
    """(E, E) whose lower triangle `packed` made; zeros above."""
    matrix = np.zeros((size, size))
    start = 0
    for row in range(size):  # a copy a row is several times as fast as a mask of all
        matrix[row, : row + 1] = values[start : start + row + 1]
        start += row + 1
    return matrix


def sums_of(parts: Iterable[npt.NDArray[np.float32]], width: int) -> Ints64:
    """The packed sums of all rows of a class, given in parts (n, E)."""
    total = np.zeros((width + 1, width + 1))
    for rows in parts:
        add_products(total, rows)
    return packed(total)


def sums_sha256(sums: Ints64) -> str:
    """Of one class's sums."""
    return hashlib.sha256(np.ascontiguousarray(sums, "<i8").data).hexdigest()
