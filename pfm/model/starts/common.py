"""All classes start from one small vector: what tells them apart is learned, and no start brings a class back."""

import numpy as np

from pfm.model.starts.base import Start
from pfm.model.starts.numbers import Floats, normal

STD = 0.02


class Common(Start):
    """The same row for every class, N(0, 0.02²) from the seed; a bias starts at zero."""

    prompt_lr = 10.0  # they start small and have a way to go; see docs/decisions.md
    follows = (
        "the prompts of this model all started from one common vector: the seed gives that vector again, and it is no "
        "more one class's than another's"
    )

    def row(self, name: str, shape: tuple[int, ...], seed: int, key: bytes) -> Floats | None:
        return np.float32(STD) * normal(shape, f"common start, seed {seed}, {name}") if shape else np.zeros((), "f4")


COMMON = Common()
