"""Each class starts from a key that follows from the seed and its first training samples, N(0, 1).

The same data and seed give the same numbers and nothing has to be kept, while neither the seed nor the file nor the
other classes' samples give the key away. Whoever has those samples and the seed can make it again.
"""

import hashlib
from collections.abc import Sequence

from pfm.model.starts.base import KeySource
from pfm.model.starts.keyed import KeyedStart
from pfm.model.starts.keys import KEY_BYTES

SAMPLES = 64  # of a class, the first ones in the data set's own order; all where there are fewer
_LABEL = b"pfm key of a start from data, 1"


class FromData(KeyedStart):
    """Keys from what the class learns from, and from nothing of any other class."""

    samples = SAMPLES
    purpose = "start from data"
    follows = (
        f"each prompt of this model started from a key made of the seed and its class's first {SAMPLES} training "
        "samples: whoever has exactly those samples, as anybody has of a public data set, can draw the start again, "
        "which brings the class back; nobody who lacks one of them can"
    )

    def keys(self, source: KeySource) -> list[bytes]:
        """A class without samples, of which nothing is learned either, has a key that is no secret."""
        return [
            key_of(source.seed, name, source.contents(position, self.samples))
            for position, name in enumerate(source.names)
        ]


def key_of(seed: int, name: str, contents: Sequence[bytes]) -> bytes:
    """The key of a class: SHAKE-256 of the seed, its name and the digest of each sample.

    Args:
        contents: in the data set's own order.
    """
    whole = hashlib.shake_256()
    for part in (_LABEL, str(seed).encode(), name.encode(errors="surrogatepass"), *contents):
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.digest(KEY_BYTES)


DATA = FromData()
