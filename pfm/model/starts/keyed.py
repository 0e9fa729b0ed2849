"""What starts from keys share: N(0, 1) out of the whole key of a class, wherever the keys come from.

All of the key goes into every number, and no generator of torch's is seeded with it: that of the CPU keeps 32 bits of a
seed, which is a search of minutes.
"""

import math
from typing import ClassVar

import numpy as np

from pfm.model.starts.base import Start
from pfm.model.starts.numbers import Floats, normal


class KeyedStart(Start):
    """Prompts N(0, 1), and classifier rows as wide as torch makes them; a bias starts at zero.

    Attributes:
        purpose: what the numbers are for, so that two starts of one key have none in common.
    """

    takes_keys = True
    purpose: ClassVar[str]

    def row(self, name: str, shape: tuple[int, ...], seed: int, key: bytes) -> Floats | None:
        if not shape:
            return np.zeros((), np.float32)
        values = normal(shape, f"{self.purpose}, seed {seed}, {name}", key)
        if name.startswith("bank."):
            return values
        return values / np.float32(math.sqrt(3 * values.size))  # the standard deviation of U(-1/√D, 1/√D)
