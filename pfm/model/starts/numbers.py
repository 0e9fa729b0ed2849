"""Normal numbers out of a key: the same on every machine, and all of the key in every one of them."""

import hashlib
import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def normal(shape: tuple[int, ...], purpose: str, key: bytes = b"") -> Floats:
    """N(0, 1) of a shape, by Box and Muller's transform of SHAKE-256 over what it is for and the key.

    32 bits make a number. Logarithm and cosine are of float64, so that a library's last bit is rounded away.
    """
    count = math.prod(shape)
    pairs = (count + 1) // 2
    head = purpose.encode()
    stream = hashlib.shake_256(len(head).to_bytes(4, "little") + head + key).digest(8 * pairs)
    first, second = np.frombuffer(stream, "<u4").astype(np.float64).reshape(2, pairs)
    radius, angle = np.sqrt(-2 * np.log((first + 1) / 2**32)), 2 * math.pi * second / 2**32
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
    return values.astype(np.float32).reshape(shape)
