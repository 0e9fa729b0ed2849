"""Search bytes for the rows of a class: a step of every erasure, not an assertion about it.

A row is looked for as it is and in each form that a converter would give it: float64, float32, float16 and bfloat16
(rounded, and cut off), and int8 with a scale of its own or that of its tensor, as dynamic quantisation stores it; in
float32 also as base64 or hexadecimal digits, at any constant distance, which is how a row lies in a transposed matrix,
and as numbers of a text or a pickle.
Checkpoints are zip archives whose members are stored as they are; a member that was deflated is inflated and searched
too. What was searched for, and what could not be, is a value that records and certificates quote.

Letters: D values of a row.
"""

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pfm.errors import TraceFoundError
from pfm.forgetting.scan import Numbers, Scanner

Floats = npt.NDArray[np.floating]

# a match of fewer bytes, or of a row that says so little, could be chance
LEAST_BYTES = 16
LEAST_DISTINCT = 4
# of a row in float32 that is looked for at a distance, places of its first two values
_MOST_PLACES = 64
_CHUNK = 1 << 24  # bytes looked at together, a multiple of 4
_TEXT = 1 << 20  # bytes of what is written here in which numbers of a text are looked for


@dataclass(frozen=True, kw_only=True)
class Row:
    """What belongs to one class: a classifier row, a token of its prompt, their averages or moments.

    Attributes:
        name: such as "bank.prompts[3] token 0", for people.
        values: (D,)
        largest: of the tensor that it is a row of, in absolute value: what an int8 scale of the whole would be.
    """

    name: str
    values: Floats
    largest: float = 0.0

    @property
    def unfit(self) -> str:
        """Why it cannot be told from chance in a file; "" where it can."""
        if not np.isfinite(self.values).all():
            return "not all of it is numbers"
        if self.values.size * 4 < LEAST_BYTES:
            return f"too short: {self.values.size} values"
        if np.unique(self.values).size < LEAST_DISTINCT:
            return "too uniform"
        return ""


@dataclass(frozen=True, kw_only=True)
class SearchReport:
    """What was searched for what, without a trace found.

    Attributes:
        files: names.
        size_bytes: of all of them.
        inflated: members that were compressed, and searched as they are without.
        rows: how many were searched for.
        forms: each row was searched for in each of these, where that has at least 16 bytes and 4 values that differ.
        passed_over: rows that were not, and why: name -> reason.
    """

    files: tuple[str, ...] = ()
    size_bytes: int = 0
    inflated: int = 0
    rows: int = 0
    forms: tuple[str, ...] = ()
    passed_over: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a record: plain values."""
        return {
            "files": list(self.files),
            "size_bytes": self.size_bytes,
            "inflated": self.inflated,
            "rows": self.rows,
            "forms": list(self.forms),
            "passed_over": dict(self.passed_over),
        }

    def joined(self, other: Self) -> Self:
        """Both, where the same rows were searched for in several files."""
        return type(self)(
            files=(*self.files, *other.files),
            size_bytes=self.size_bytes + other.size_bytes,
            inflated=self.inflated + other.inflated,
            rows=max(self.rows, other.rows),
            forms=tuple(dict.fromkeys((*self.forms, *other.forms))),
            passed_over={**self.passed_over, **other.passed_over},
        )

    def describe(self) -> str:
        """One sentence for people."""
        over = f"; {len(self.passed_over)} rows could not be told from chance" if self.passed_over else ""
        return (
            f"searched {', '.join(self.files)} ({self.size_bytes:,} bytes) for {self.rows} rows as "
            f"{', '.join(self.forms)}: none found{over}"
        )


AS = " as "  # between a row's name and its form
_PICKLED = 64  # values of a list that are looked for
FORMS = (
    "float64", "float32", "float16", "bfloat16", "bfloat16 cut off", "int8 by its own scale",
    "int8 by its tensor's scale", "float32 in base64", "float32 in hexadecimal digits", "numbers of a pickle",
    "written numbers", "float32 at a constant distance",
)  # fmt: skip


def search(content: bytes, rows: Iterable[Row], *, kept: Iterable[Row] = (), file: str = "") -> SearchReport:
    """Search the bytes of a file for rows.

    Args:
        content: all of a file, as it is written.
        rows: of classes that must not be in it.
        kept: of those that may; a row that is the same as one of them cannot be searched for.
        file: its name, for the report.

    Raises:
        TraceFoundError: one of them is there.
    """
    fit, passed_over = told_apart(rows, kept)
    sought = Sought(fit)
    inflated = 0
    for place, part in _parts(content):
        inflated += bool(place)
        found = sought.find(part)
        if found:
            where = " in ".join(filter(None, (place, file))) or "the bytes"
            row, _, form = found.partition(AS)
            raise TraceFoundError(
                f"{row} of an erased class was found as {form} in {where}; nothing was written. "
                "This file holds the class in a second place: report it, and do not rely on an erasure of it"
            )
    return SearchReport(
        files=(file,) if file else (),
        size_bytes=len(content),
        inflated=inflated,
        rows=len(fit),
        forms=FORMS,
        passed_over=passed_over,
    )


def told_apart(rows: Iterable[Row], kept: Iterable[Row]) -> tuple[list[Row], dict[str, str]]:
    """Those rows that can be searched for, and by name why the others cannot be.

    Args:
        kept: of classes that may be there.
    """
    wanted = {row.name: row for row in rows}
    allowed = {row.values.tobytes() for row in kept}
    passed_over = {name: row.unfit for name, row in wanted.items() if row.unfit}
    for name, row in wanted.items():
        if not row.unfit and row.values.tobytes() in allowed:
            passed_over[name] = "the same as a row of a class that is left"
    return [row for name, row in wanted.items() if name not in passed_over], passed_over


class Sought:
    """Rows that are looked for in bytes that are about to be written.

    Args:
        rows: that can be told from chance.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.scanner = Scanner({raw: f"{row.name}{AS}{form}" for row in rows for form, raw in patterns(row)})
        self.numbers = Numbers((row.name, row.values) for row in rows)

    def find(self, content: bytes) -> str:
        """The first row that is there and the form it is in, joined by `AS`; "" where there is none."""
        found = self.scanner.find(content)
        if found:
            return found
        if len(content) <= _TEXT and (name := self.numbers.find(content)):
            return f"{name}{AS}written numbers"
        spread = (row.name for row in self._rows if _is_spread(content, row.values.astype("<f4")))
        return next((f"{name}{AS}{FORMS[-1]}" for name in spread), "")


def patterns(row: Row) -> Iterator[tuple[str, bytes]]:
    """The bytes of a row in each form that says enough: its name, and the bytes."""
    with np.errstate(over="ignore"):
        forms: dict[str, npt.NDArray[Any]] = {
            "float64": row.values.astype("<f8"),
            "float32": row.values.astype("<f4"),
            "float16": row.values.astype("<f2"),
        }
    forms["bfloat16"], forms["bfloat16 cut off"] = _bfloat16(forms["float32"])
    forms["int8 by its own scale"] = quantised(row.values, float(np.abs(row.values).max()))
    if row.largest:
        forms["int8 by its tensor's scale"] = quantised(row.values, row.largest)
    for name, values in forms.items():
        raw = values.tobytes()
        if len(raw) >= LEAST_BYTES and np.unique(values).size >= LEAST_DISTINCT:
            yield name, raw
    yield from _as_letters(forms["float32"].tobytes())
    # a list of floats, of which pickle writes a thousand at most behind one another
    yield "numbers of a pickle", b"".join(b"G" + struct.pack(">d", value) for value in row.values[:_PICKLED].tolist())


def _as_letters(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Bytes in base64, wherever they begin in what was written so, and in hexadecimal digits."""
    for before in range(3):
        letters = base64.b64encode(bytes(before) + raw)
        whole = (before + len(raw)) // 3 * 4  # the last letters depend on what comes behind
        yield "float32 in base64", letters[4 * bool(before) : whole]
    for digits in (raw.hex(), raw.hex().upper()):
        yield "float32 in hexadecimal digits", digits.encode()


def quantised(values: Floats, largest: float) -> npt.NDArray[np.int8]:
    """As ONNX Runtime's symmetric int8 stores it: `largest` becomes 127."""
    scale = np.float32(largest) / np.float32(127)
    return np.clip(np.rint(values.astype(np.float32) / scale), -127, 127).astype(np.int8)


def _is_spread(content: bytes, values: npt.NDArray[np.float32]) -> bool:
    """Whether the values of a row (D,) are there at a constant distance from each other."""
    bits = values.view("<u4")
    fit = np.flatnonzero((values[:-1] != 0) & (values[1:] != 0) & (bits[:-1] != bits[1:]))
    if not len(fit):
        return False
    first = int(fit[0])
    starts = _places(content, values[first])
    seconds = _places(content, values[first + 1]) if starts else []
    raw = [value.tobytes() for value in values] if seconds else []
    for start in starts:
        for second in seconds:
            step = second - start
            begin, end = start - first * step, start + (len(raw) - 1 - first) * step
            if not (0 <= begin <= len(content) - 4 and 0 <= end <= len(content) - 4):
                continue
            places = range(begin, end + (1 if step > 0 else -1), step)
            if all(content[place : place + 4] == piece for place, piece in zip(places, raw, strict=True)):
                return True
    return False


def _places(content: bytes, value: np.float32) -> list[int]:
    """Where a value is, at any address; not more than so many places, which only one that says nothing has."""
    found: list[int] = []
    bits = value.view(np.uint32)
    for begin in range(0, len(content), _CHUNK):
        end = min(begin + _CHUNK + 3, len(content))  # a value may reach into the next chunk
        for offset in range(4):
            count = (end - begin - offset) // 4
            if count > 0:
                words = np.frombuffer(content, "<u4", count, begin + offset)
                found += (4 * np.flatnonzero(words == bits) + begin + offset).tolist()
        if len(found) >= _MOST_PLACES:
            break
    return sorted(set(found))[:_MOST_PLACES]


def _bfloat16(values: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16]]:
    """Rounded to the nearest, ties to even; and cut off."""
    bits = values.view("<u4").astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype("<u2"), (bits >> 16).astype("<u2")


def _parts(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A file's bytes, then what is compressed in them: the member's name, and its bytes.

    Raises:
        TraceFoundError: a member that cannot be inflated, and so cannot be searched.
    """
    yield "", content
    if not content.startswith(b"PK"):
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    yield member.filename, archive.read(member)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise TraceFoundError(
            f"an archive that cannot be read cannot be searched ({error}); nothing was written"
        ) from error
