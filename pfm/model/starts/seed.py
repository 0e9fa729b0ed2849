"""The paper's start: N(0, 1) from the run's seed, which anybody can draw again."""

from pfm.model.starts.base import Start
from pfm.model.starts.numbers import Floats


class Seed(Start):
    """Rows as torch makes them after `torch.manual_seed`."""

    follows = (
        "the prompts of this model follow from its seed: each started from numbers of the seed and hardly moved, so "
        "whoever knows or finds the seed can draw an erased class's prompt again, which brings the class back"
    )

    def row(self, name: str, shape: tuple[int, ...], seed: int, key: bytes) -> Floats | None:
        return None


SEED = Seed()
