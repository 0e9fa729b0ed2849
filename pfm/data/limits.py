"""What a file of data may ask for where nothing else is said: it may be anybody's, and memory is not endless."""

import io

MOST_PIXELS = 89_478_485  # of an image; Pillow's own limit, a quarter of a GiB in RGB
LARGE_BYTES = 256 << 20  # an array that unpacks to no more is not looked at for how much it was packed
MOST_EXPANSION = 100  # times the size of what is stored that a larger one may have
MOST_READS = 40_000  # of a file in memory; an image or a sound takes some hundred


class Counted(io.BytesIO):
    """A file in memory that may be anybody's: of a million parts with nothing in them, each is read for itself.

    Raises:
        ValueError: when it is read too often.
    """

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise ValueError("it has more parts than an image or a sound needs")
        return super().read(size)
