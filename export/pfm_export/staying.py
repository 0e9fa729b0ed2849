"""What stays as it is, searched for the rows that are about to go: what a file is taken for proves little.

A file that is clean by its kind, an artifact that the class was erased from before, and one that never had it: each
may hold a row all the same, under another name, in a field that nobody reads, as a text. Each is searched while there
are rows to search for, so before anything changes.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from pfm.forgetting.artifacts import FolderKind, Verdict
from pfm.forgetting.artifacts.runs import RunKind
from pfm.forgetting.artifacts.walk import Seen
from pfm.forgetting.scan import find_in_file
from pfm.forgetting.search import Row, Sought, told_apart
from pfm_export.survey import Held, Survey

MOST_ROWS = 2000  # that are sought; of more, those of the artifacts that were written last


def still_holding(found: Survey, wanted: Sequence[tuple[Held, tuple[tuple[int, str], ...]]]) -> list[Seen]:
    """Files that no erasure changes and that hold a row of the classes.

    Args:
        wanted: what changes, with number and name of each class that goes from it.

    Raises:
        StorageError: one of them cannot be read.
    """
    files = list(_staying(found, {held.path for held, _ in wanted}))
    rows = _rows_of(wanted) if files else []
    if not rows:
        return []
    sought = Sought(rows)
    left: list[Seen] = []
    for file in files:
        what = find_in_file(file, sought.scanner, sought.numbers)
        if what:
            left.append(Seen(file, None, Verdict.HOLDS, f"it holds {what}"))
    return left


def _staying(found: Survey, changed: set[Path]) -> Iterable[Path]:
    """Files that no row is taken out of; of a bundle that is erased from, its manifest and ledger."""
    yield from (seen.path for seen in found.clean if seen.path.is_file())
    for held in found.held:
        own = found.walk.kept.get(held.path, ()) if isinstance(held.kind, FolderKind) else (held.path,)
        if not isinstance(held.kind, RunKind):
            yield from (path for path in own if path.is_file() and (held.path not in changed or _is_document(path)))


def _is_document(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _rows_of(wanted: Sequence[tuple[Held, tuple[tuple[int, str], ...]]]) -> list[Row]:
    """Of each artifact what can be told from chance and from what stays in it, each row once."""
    found: dict[bytes, Row] = {}
    for held, classes in sorted(wanted, key=lambda pair: -_written(pair[0].path)):
        rows = held.kind.rows(held.path, {number for number, _ in classes})
        for row in told_apart(rows.gone, rows.kept)[0]:
            named = dataclasses.replace(row, name=f"{row.name} of {held.path.name}")
            found.setdefault(row.values.tobytes(), named)
        if len(found) >= MOST_ROWS:
            break
    return list(found.values())


def _written(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0
