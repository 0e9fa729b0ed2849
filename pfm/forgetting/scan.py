"""Many patterns sought in bytes at once, and rows of numbers in a text.

Of each pattern eight bytes that differ much are taken; tables of 65,536 entries say of every two bytes of a file
whether they could be a part of those, so that a file is gone through in about a second a gigabyte, however many
patterns there are. In a text a row is known by the differences of its numbers, as far as they were written out: under
any names, between any other signs, and moved by any one number.

Letters: D values of a row, N numbers of a text.
"""

import mmap
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pfm.errors import StorageError, explain

Bytes = bytes | mmap.mmap
Floats = npt.NDArray[np.floating]

_KEY = 8  # bytes of a pattern that the tables are made of
_CHUNK = 1 << 24
_NUMBER = re.compile(rb"-?\d{1,20}\.\d{1,30}(?:[eE][-+]?\d{1,3})?")
_DIFFERENCES = 16  # of a row, one after another, that are looked for in a text
_LEAST_DIFFERENCES = 8
_COARSE = 0.1  # of the row's spread: differences of numbers that were rounded to more than this say nothing
_EXACT = 1e-3  # of the row's spread: as far a number that is written in full may be from the row's
_MOST_COARSE = 0.25  # of the differences, since a round number is written in few digits
LARGEST_TEXT = 64 << 20  # bytes in which numbers are looked for


class Scanner:
    """Looks for patterns.

    Args:
        patterns: of 8 bytes at least, each with what it is.
    """

    def __init__(self, patterns: Mapping[bytes, str]) -> None:
        self._tables = np.zeros((_KEY // 2, 1 << 16), dtype=bool)
        self._by_key: dict[bytes, list[tuple[int, bytes, str]]] = {}
        for pattern, what in patterns.items():
            start = _telling(pattern)
            key = pattern[start : start + _KEY]
            self._by_key.setdefault(key, []).append((start, pattern, what))
            for table, part in zip(self._tables, np.frombuffer(key, "<u2"), strict=True):
                table[part] = True

    def find(self, content: Bytes) -> str:
        """What is there of the first pattern that is found; "" where there is none."""
        for begin in range(0, len(content) if self._by_key else 0, _CHUNK):
            chunk = content[begin : begin + _CHUNK + _KEY]  # a key may reach into the next chunk
            for offset in (0, 1):
                found = self._find_in(content, chunk, begin, offset)
                if found:
                    return found
        return ""

    def _find_in(self, content: Bytes, chunk: bytes, begin: int, offset: int) -> str:
        count = (len(chunk) - offset) // 2
        if count < len(self._tables):
            return ""
        words = np.frombuffer(chunk, "<u2", count, offset)
        places = np.flatnonzero(self._tables[0][words[: count - len(self._tables) + 1]])
        for further, table in enumerate(self._tables[1:], start=1):
            places = places[table[words[places + further]]]
        for place in (2 * places + offset).tolist():
            for start, pattern, what in self._by_key.get(chunk[place : place + _KEY], ()):
                first = begin + place - start
                if first >= 0 and content[first : first + len(pattern)] == pattern:
                    return what
        return ""


def _telling(pattern: bytes) -> int:
    """Where the eight bytes begin that differ most."""
    starts = range(min(len(pattern) - _KEY, 256) + 1)
    return max(starts, key=lambda start: len(set(pattern[start : start + _KEY])))


class Numbers:
    """Rows that are looked for as a text writes numbers.

    Args:
        rows: (D,) each by its name; short ones cannot be told from chance and are left out.
    """

    def __init__(self, rows: Iterable[tuple[str, Floats]]) -> None:
        differences = ((name, np.diff(values.astype(np.float64))[:_DIFFERENCES]) for name, values in rows)
        self._rows = [(name, own) for name, own in differences if len(own) >= _LEAST_DIFFERENCES and own.std() > 0]

    def find(self, content: Bytes) -> str:
        """The name of the first row that is there; "" where there is none."""
        if not self._rows or len(content) > LARGEST_TEXT:
            return ""
        written = _NUMBER.findall(content)
        if len(written) <= _LEAST_DIFFERENCES:
            return ""
        values = np.array([float(number) for number in written])  # (N,)
        unsure = np.array([_rounding(number) for number in written])
        steps, slack = np.diff(values), unsure[1:] + unsure[:-1]
        for name, own in self._rows:
            places = np.arange(len(steps) - len(own) + 1)
            coarsest, num_coarse = _COARSE * own.std(), np.zeros(len(places), dtype=int)
            for further, difference in enumerate(own):
                at = places + further
                room = slack[at] + _EXACT * own.std()
                num_coarse += room > coarsest
                fits = (np.abs(steps[at] - difference) <= room) & (num_coarse <= _MOST_COARSE * len(own))
                places, num_coarse = places[fits], num_coarse[fits]
                if not len(places):
                    break
            if len(places):
                return name
        return ""


def _rounding(number: bytes) -> float:
    """By how much a number that was written so may differ from what it was."""
    digits, _, exponent = number.lower().partition(b"e")
    return 0.5 * 10.0 ** (int(exponent or 0) - len(digits.partition(b".")[2]))


def find_in_file(path: Path, scanner: Scanner, numbers: Numbers) -> str:
    """What of some rows is in a file as it is; "" where there is nothing.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            return ""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = scanner.find(content)
            if found:
                return found
            name = numbers.find(content)
            return f"{name} as written numbers" if name else ""
    except FileNotFoundError:  # deleted since it was found
        return ""
    except (OSError, ValueError) as error:
        reason = explain(error) if isinstance(error, OSError) else error
        raise StorageError(f"cannot read {path}: {reason}; make it readable, or take it away") from error
