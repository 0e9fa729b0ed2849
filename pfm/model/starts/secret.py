"""Each class starts from a key of its own, N(0, 1): who holds the key can draw the start again, and nobody else can.

All of the key goes into every number, and no generator of torch's is seeded with it: that of the CPU keeps 32 bits of a
seed, which is a search of minutes.
"""

import math

import numpy as np

from pfm.model.starts.base import Start
from pfm.model.starts.numbers import Floats, normal


class Secret(Start):
    """Prompts N(0, 1), and classifier rows as wide as torch makes them; a bias starts at zero."""

    takes_keys = True
    follows = (
        "each prompt of this model started from a secret key of its class: whoever kept that key can draw the start "
        "again, and nobody else can"
    )

    def row(self, name: str, shape: tuple[int, ...], seed: int, key: bytes) -> Floats | None:
        if not shape:
            return np.zeros((), np.float32)
        values = normal(shape, f"secret start, seed {seed}, {name}", key)
        if name.startswith("bank."):
            return values
        return values / np.float32(math.sqrt(3 * values.size))  # the standard deviation of U(-1/√D, 1/√D)


SECRET = Secret()
