"""How long a pass takes, from those before: about a + b n seconds for n rows.

Passes of few rows say what a pass costs whatever is in it, and those of many what a row adds. The latest count most,
since a machine's speed changes.
"""

FIRST_GUESS = 0.02  # seconds a row, before a pass was measured
MEMORY = 0.95  # what a pass counts, to the one after it


class PassTimes:
    """A line through the passes so far; not locked."""

    def __init__(self) -> None:
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a pass was measured."""
        return self._weight > 0

    def add(self, rows: int, seconds: float) -> None:
        """A pass of so many rows took so long."""
        self._weight = MEMORY * self._weight + 1
        self._rows = MEMORY * self._rows + rows
        self._squares = MEMORY * self._squares + rows * rows
        self._seconds = MEMORY * self._seconds + seconds
        self._products = MEMORY * self._products + rows * seconds

    def expected(self, rows: int) -> float:
        """Seconds of a pass of so many rows."""
        pass_seconds, row_seconds = self._line()
        return pass_seconds + row_seconds * rows

    def most_rows(self, seconds: float, most: int) -> int:
        """How many rows a pass may have so that they add so many seconds to it: at least one, and at most `most`."""
        row_seconds = self._line()[1]
        return most if row_seconds * most <= seconds else max(1, int(seconds / row_seconds))

    def _line(self) -> tuple[float, float]:
        """a and b, by least squares; neither is negative."""
        if not self.is_known:
            return 0.0, FIRST_GUESS
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        spread = self._squares / self._weight - rows * rows
        # passes of one size say nothing of others: all of it is taken for the rows'
        slope = (self._products / self._weight - rows * seconds) / spread if spread > 1e-6 * rows * rows else seconds
        slope = min(max(0.0, slope), seconds / rows)
        return seconds - slope * rows, slope
