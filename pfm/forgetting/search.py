"""Search bytes for the rows of a class: a step of every erasure, not an assertion about it.

A row is looked for as it is and in each form that a converter would give it: float64, float32, float16 and bfloat16
(rounded, and cut off), and int8 with a scale of its own or that of its tensor, as dynamic quantisation stores it. In
float32 its values are also looked for at any constant distance, which is how a row lies in a transposed matrix.
Checkpoints are zip archives whose members are stored as they are; a member that was deflated is inflated and searched
too. What was searched for, and what could not be, is a value that records and certificates quote.

Letters: D values of a row.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pfm.errors import TraceFoundError

Floats = npt.NDArray[np.floating]

# a match of fewer bytes, or of a row that says so little, could be chance
LEAST_BYTES = 16
LEAST_DISTINCT = 4
# of a row in float32 that is looked for at a distance, places of its first two values
_MOST_PLACES = 64
_CHUNK = 1 << 24  # bytes looked at together, a multiple of 4


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


FORMS = (
    "float64", "float32", "float16", "bfloat16", "bfloat16 cut off", "int8 by its own scale",
    "int8 by its tensor's scale", "float32 at a constant distance",
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
    wanted = {row.name: row for row in rows}
    allowed = {row.values.tobytes() for row in kept}
    passed_over = {name: row.unfit for name, row in wanted.items() if row.unfit}
    for name, row in wanted.items():
        if not row.unfit and row.values.tobytes() in allowed:
            passed_over[name] = "the same as a row of a class that is left"
    fit = [row for name, row in wanted.items() if name not in passed_over]
    inflated = 0
    for place, part in _parts(content):
        inflated += bool(place)
        for row in fit:
            form = _found(part, row)
            if form:
                where = " in ".join(filter(None, (place, file))) or "the bytes"
                raise TraceFoundError(
                    f"{row.name} of an erased class was found as {form} in {where}; nothing was written. "
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


def quantised(values: Floats, largest: float) -> npt.NDArray[np.int8]:
    """As ONNX Runtime's symmetric int8 stores it: `largest` becomes 127."""
    scale = np.float32(largest) / np.float32(127)
    return np.clip(np.rint(values.astype(np.float32) / scale), -127, 127).astype(np.int8)


def _found(content: bytes, row: Row) -> str:
    """The form in which a row is there; "" where it is not."""
    for form, raw in patterns(row):
        if raw in content:
            return form
    return FORMS[-1] if _is_spread(content, row.values.astype("<f4")) else ""


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
