"""How long a pass takes, from those before: about a + b n seconds for n rows.

Passes of few rows say what a pass costs whatever is in it, and those of many what a row adds. The latest count most,
since a machine's speed changes; but what one pass took that stood still for seconds would have requests refused, and
passes of one row, for a hundred passes more.
"""

FIRST_GUESS = 0.02  # seconds a row, before a pass was measured
MEMORY = 0.95  # what a pass counts, to the one after it
MOST_SLOWER = 4.0  # than what was expected, or than most are; the rest of it is taken for a stall of the machine


class PassTimes:
    """A line through the passes so far; not locked."""

    def __init__(self) -> None:
        self._weight = self._rows = self._squares = self._seconds = self._products = 0.0
        self._pass_seconds, self._row_seconds = 0.0, FIRST_GUESS  # the line, which is asked for by every request

    @property
    def is_known(self) -> bool:
        """Whether a pass was measured."""
        return self._weight > 0

    def add(self, rows: int, seconds: float) -> None:
        """A pass of so many rows took so long."""
        if self.is_known:
            usual = max(self.expected(rows), self._seconds / self._weight)
            seconds = min(seconds, MOST_SLOWER * usual)
        self._weight = MEMORY * self._weight + 1
        self._rows = MEMORY * self._rows + rows
        self._squares = MEMORY * self._squares + rows * rows
        self._seconds = MEMORY * self._seconds + seconds
        self._products = MEMORY * self._products + rows * seconds
        self._pass_seconds, self._row_seconds = self._line()

    def expected(self, rows: int, *, passes: int = 1) -> float:
        """Seconds of a pass of so many rows, or of several with so many together."""
        return self._pass_seconds * passes + self._row_seconds * rows

    def most_rows(self, seconds: float, most: int) -> int:
        """How many rows a pass may have so that they add so many seconds to it: at least one, and at most `most`.

        After passes of one size it may have twice as many, however long those took: else nobody would ever learn what a
        row adds to a pass that is slow whatever is in it.
        """
        if self._row_seconds * most <= seconds:
            return most
        least = 2 * round(self._rows / self._weight) if self.is_known and not self._is_of_sizes else 1
        return min(most, max(least, int(seconds / self._row_seconds)))

    @property
    def _spread(self) -> float:
        return self._squares / self._weight - (self._rows / self._weight) ** 2

    @property
    def _is_of_sizes(self) -> bool:
        """Whether the passes were of different ones."""
        return self._spread > 1e-6 * (self._rows / self._weight) ** 2

    def _line(self) -> tuple[float, float]:
        """a and b, by least squares; neither is negative."""
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        # passes of one size say nothing of others: all of it is taken for the rows'
        slope = (self._products / self._weight - rows * seconds) / self._spread if self._is_of_sizes else seconds
        slope = min(max(0.0, slope), seconds / rows)
        return seconds - slope * rows, slope
