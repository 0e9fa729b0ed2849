"""A table of text about files: comma, semicolon or tab between its columns, in any usual encoding; text stays text."""

import codecs
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pfm.data.readers.listing import FoundFile
from pfm.errors import DataError, explain

_DELIMITERS = ",;\t|"
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_ENOUGH_ROWS = 200  # by which the column of file names is told


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table as it stands in a file.

    Attributes:
        path: of the file.
        columns: their names.
        rows: a value for each column.
        lines: where in the file each row ends, counted from 1.
        notes: for people.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lines: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def column(self, name: str, flag: str) -> list[str]:
        """A column's values.

        Args:
            flag: the option that names it.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.columns:
            raise DataError(f"{self.path} has no column {name!r} (it has {', '.join(self.columns)}); see {flag}")
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


def table_bytes(path: Path) -> bytes:
    """What is in a table's file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the table {path}: {explain(error)}") from error


def read_table(path: Path) -> TextTable:
    """Read a CSV file.

    Raises:
        DataError: it cannot be read, has no rows, or a row with another number of columns.
    """
    text, notes = _decoded(table_bytes(path), path)
    first = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=first.count)
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = tuple(name.strip() for name in next(reader, []))
        for row in reader:
            if not row:
                continue
            if len(row) != len(columns):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(row)} values for {len(columns)} columns "
                    f"({', '.join(columns)})"
                )
            rows.append(tuple(row))
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}; is it a CSV file?") from error
    twice = next((name for name in columns if columns.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}; rename one")
    if not rows:
        raise DataError(f"{path} has no rows (columns: {', '.join(columns) or 'none'})")
    return TextTable(path=path, columns=columns, rows=tuple(rows), lines=tuple(lines), notes=notes)


def _decoded(content: bytes, path: Path) -> tuple[str, tuple[str, ...]]:
    if b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path} is not a table; a CSV file is text")
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        return content.decode(encoding), ()
    except UnicodeDecodeError:
        note = f"{path.name} is not UTF-8; read as Windows-1252"
        return content.decode("cp1252", errors="replace"), (note,)


class FileNames:
    """Finds the files that a table's values mean: by path from the folder, by name, either without its ending."""

    def __init__(self, files: Iterable[FoundFile], folder: str = "") -> None:
        """
        Args:
            folder: of the table, from the data set's, from which its paths may go as well.
        """
        self._folder = f"{folder}/" if folder else ""
        self._found: dict[str, FoundFile | None] = {}
        paths: dict[str, FoundFile] = {}
        for file in files:
            whole = PurePosixPath(file.name)
            paths[file.name] = file
            for key in {file.name.removesuffix(whole.suffix), whole.name, whole.stem}:
                self._found[key] = file if key not in self._found else None  # None: several
        self._found.update(paths)

    def __call__(self, value: str) -> FoundFile | None:
        """The file, or None where there is none.

        Raises:
            DataError: several.
        """
        key = self._key(value)
        if key is None:
            return None
        file = self._found[key]
        if file is None:
            raise DataError(f"several files are called {value}; the table has to give their paths")
        return file

    def column(self, table: TextTable) -> str:
        """The column whose values are files.

        Raises:
            DataError: none is.
        """
        rows = table.rows[:_ENOUGH_ROWS]
        hits = {name: self._count([row[place] for row in rows]) for place, name in enumerate(table.columns)}
        best = max(table.columns, key=lambda name: hits[name])
        if hits[best] == 0:
            raise DataError(
                f"no column of {table.path} names files of the data set (columns: {', '.join(table.columns)}; first "
                f"row: {', '.join(rows[0])}); name the column of the files with --input_column"
            )
        return best

    def _count(self, values: Sequence[str]) -> int:
        return sum(self._key(value) is not None for value in values)

    def _key(self, value: str) -> str | None:
        plain = value.strip().replace("\\", "/").removeprefix("./")
        candidates = (self._folder + plain, plain, PurePosixPath(plain).name if plain.startswith("/") else "")
        return next((key for key in candidates if key in self._found), None)
