"""What is fixed before any sample is seen: the features, their integers and the projection's shape.

Letters: D numbers of a feature vector, P columns of the projection.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.errors import ConfigError

UNIT = 1024  # of a feature: a value of 1 is this integer
LARGEST_SUM = 2**24  # integers up to here are exact in float32, and so are their sums, whatever the order
LARGEST = 4095  # of a projected value
CONSTANT = 1024  # the value of the constant column
LARGEST_TOTAL = 2**53  # the same for float64
LARGEST_ROW = 2**15 - 1  # of int16, as rows are stored
SHARPNESS = 10.0  # of the regression's targets, so that a softmax over the scores tells the winner from the others

Ints8 = npt.NDArray[np.int8]
Ints16 = npt.NDArray[np.int16]
Ints32 = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How samples become integers; a function of shapes and options alone.

    Attributes:
        features: what the feature vectors are, in plain values, such as the backbone's hash.
        size: D.
        width: P.
        alpha: the penalty, times the trace of the summed products.
    """

    features: Mapping[str, Any]
    size: int
    width: int
    alpha: float

    def __post_init__(self) -> None:
        if self.bound < 2 * UNIT:
            raise ConfigError(
                f"feature vectors of {self.size:,} numbers are too long for exact sums (at most "
                f"{LARGEST_SUM // (2 * UNIT):,}); take --feature_tokens cls, or a smaller input"
            )
        if not self.alpha > 0:
            raise ConfigError(f"--alpha {self.alpha:g} leaves a head that cannot be solved; give a number above 0")

    @property
    def spread(self) -> int:
        """The largest offset: what a projection of D independent features of deviation 1 spreads."""
        return round(UNIT * math.sqrt(2 * self.size / 3))

    @property
    def bound(self) -> int:
        """B, the largest integer of a feature: D · B and the offset stay where float32 is exact."""
        return min(LARGEST_ROW, (LARGEST_SUM - self.spread) // self.size)

    @property
    def shift(self) -> int:
        """s: projected values are divided by 2^s."""
        return max(0, round(math.log2(self.spread / UNIT)))

    def check_count(self, count: int) -> None:
        """Refuse more samples than can be summed exactly.

        Raises:
            ConfigError: there are.
        """
        if count * LARGEST**2 >= LARGEST_TOTAL:
            raise ConfigError(f"{count:,} samples are more than sums of float64 hold exactly")

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Recipe":
        """What `to_dict` made."""
        return cls(**values)


@dataclass(frozen=True)
class Projection:
    """The fixed projection, stored and never drawn again.

    Attributes:
        matrix: (D, P) of -1, 0 and 1.
        offset: (P,).
    """

    matrix: Ints8
    offset: Ints32

    @classmethod
    def draw(cls, recipe: Recipe, seed: int) -> "Projection":
        """Entries -1, 0 and 1, each as likely, and offsets up to the recipe's spread."""
        random = np.random.default_rng([seed, 0x9E3779B9])
        matrix = random.integers(-1, 2, (recipe.size, recipe.width)).astype(np.int8)
        offset = random.integers(-recipe.spread, recipe.spread + 1, recipe.width).astype(np.int32)
        return cls(matrix, offset)

    def sha256(self) -> str:
        """Of both."""
        digest = hashlib.sha256(np.ascontiguousarray(self.matrix).tobytes())
        digest.update(self.offset.astype("<i4").tobytes())
        return digest.hexdigest()

    def project(self, rows: Ints16, recipe: Recipe) -> Floats:
        """Feature integers (n, D) -> (n, P + 1) integers from 0 to 4095 in float32, the constant behind.

        Every product and sum in it is an integer below 2^24, so that it is exact in float32, here as in torch and in
        the exported graph.
        """
        sums = rows.astype(np.float32) @ self.matrix.astype(np.float32) + self.offset.astype(np.float32)
        scaled = np.floor(np.maximum(sums, 0) * np.float32(2.0**-recipe.shift))
        constant = np.full((len(rows), 1), CONSTANT, np.float32)
        return np.concatenate([np.minimum(scaled, LARGEST), constant], axis=1)


def canonical_sha256(value: Any) -> str:
    """SHA-256 of plain values, written in one way."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
