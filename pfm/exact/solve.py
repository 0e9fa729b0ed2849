"""The solve: weights from integer sums, by one routine on one thread, so that equal sums give equal bytes.

Ridge regression on targets of one column a class, each class weighed alike, with a penalty that follows from the sums:

    A = Σ w_c S_c + λ I,    w_c = N / (C n_c),    λ = α · trace(Σ w_c S_c),    A W = B

with B's column c the weighed sum of class c's rows. The class sums are combined in the order in which they are given,
which is that of the classes' names.

Letters: C classes, n_c samples of a class, N of all, P columns of the projection, E = P + 1 with the constant behind.
"""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pfm.errors import ConfigError
from pfm.exact.recipe import CONSTANT, SHARPNESS
from pfm.exact.sums import Doubles, Ints64, unpacked

TOLERANCE = 1e-5  # relative, by which float32 rows may differ that another build or processor solved
BLOCK = 128  # columns of a step of the substitution
CHUNK = 1 << 16  # numbers that are weighed at a time, few enough for a processor's cache


@dataclass(frozen=True)
class Solution:
    """Rows of a linear classifier on projected values, in the order of the sums.

    Attributes:
        weight: (C, P) float64.
        bias: (C,) float64.
    """

    weight: Doubles
    bias: Doubles


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra of numpy on one thread while the block runs.

    Raises:
        ConfigError: threadpoolctl is not installed.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError("exact weights are solved on one thread, which needs: pip install threadpoolctl") from error
    with threadpool_limits(limits=1, user_api="blas"):
        yield


def solve(sums: Iterable[Ints64], counts: Sequence[int], *, width: int, alpha: float) -> Solution:
    """Weights from packed sums.

    Args:
        sums: of each class, in the order of the classes' names; each is looked at before the next is asked for.
        counts: samples of each class, in the same order.
    """
    with one_thread():
        return _solve(sums, counts, width, alpha)


def _solve(sums: Iterable[Ints64], counts: Sequence[int], width: int, alpha: float) -> Solution:
    factor, targets = factorised(sums, counts, width=width, alpha=alpha)
    solved = _substituted_back(factor, substituted_forward(factor, targets))  # (E, C)
    return Solution(weight=np.ascontiguousarray(solved[:-1].T), bias=solved[-1] * CONSTANT)


def factorised(sums: Iterable[Ints64], counts: Sequence[int], *, width: int, alpha: float) -> tuple[Doubles, Doubles]:
    """L (E, E), lower triangular with L Lᵀ = A, and B (E, C); the caller sees to one thread.

    Raises:
        ConfigError: the penalty is too small for these sums.
    """
    size, count = width + 1, sum(counts)
    weights = [count / (len(counts) * own) for own in counts]
    total = np.zeros(size * (size + 1) // 2)
    part = np.empty(min(CHUNK, len(total)))
    targets = np.zeros((size, len(counts)))
    for column, (weight, own) in enumerate(zip(weights, sums, strict=True)):
        for start in range(0, len(total), CHUNK):
            stop = min(start + CHUNK, len(total))
            total[start:stop] += np.multiply(own[start:stop], weight, out=part[: stop - start])
        # the last row of the products is the sum of the rows, times the constant
        targets[:, column] = weight * own[-size:] * (SHARPNESS / CONSTANT)
    matrix = unpacked(total, size)
    diagonal = np.diagonal(matrix)
    matrix[np.diag_indices(size)] += alpha * diagonal.sum()
    try:
        return np.asarray(np.linalg.cholesky(matrix), np.float64), targets
    except np.linalg.LinAlgError as error:
        raise ConfigError(
            f"--alpha {alpha:g} is too small: the sums of {count:,} samples cannot be solved with it in float64; fit "
            "again with a larger one"
        ) from error


def substituted_forward(factor: Doubles, targets: Doubles) -> Doubles:
    """X with L X = targets, L lower triangular."""
    size = len(factor)
    found = targets.copy()
    for start in range(0, size, BLOCK):
        own = slice(start, min(start + BLOCK, size))
        found[own] = np.linalg.solve(factor[own, own], found[own] - factor[own, :start] @ found[:start])
    return found


def _substituted_back(factor: Doubles, targets: Doubles) -> Doubles:
    """X with Lᵀ X = targets."""
    size = len(factor)
    found = targets.copy()
    for start in reversed(range(0, size, BLOCK)):
        own, behind = slice(start, min(start + BLOCK, size)), slice(min(start + BLOCK, size), size)
        found[own] = np.linalg.solve(factor[own, own].T, found[own] - factor[behind, own].T @ found[behind])
    return found
