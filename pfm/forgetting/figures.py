"""Figures of a class that a run has written beside its checkpoints: how often its prompt alone was right.

`<stem>_accuracies.json` has a series for each class, `<stem>_log.jsonl` the same by epoch. Neither a prompt nor a row
follows from them; they are of the class all the same, and go with it. Figures over all classes together (losses, the
accuracy of the full bank) stay: they were measured with the class, and no part of them is the class's own.

Of an exact fit, log and summary say what follows from all its samples to the last bit: the digest, how many bytes are
kept, the share that was clipped. Whoever has what is left could try with it whether samples of theirs were among those
that went, so these go with a class, a group or a sample.
"""

import json
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from pfm.storage import finite, write_bytes

_OF_RUN = re.compile(r"(?P<stem>.+)_(\d+|best|resume)\.pt")
BY_LINE = "_log.jsonl"
SUFFIXES = ("_accuracies.json", BY_LINE, "_run.json")
OF_FIT = ("digest", "memory_bytes", "clipped")


def figure_files(checkpoints: Iterable[Path]) -> Iterator[Path]:
    """The files of figures beside some checkpoints of runs, each once."""
    found: dict[Path, None] = {}
    for path in checkpoints:
        match = _OF_RUN.fullmatch(path.name)
        if match:
            found |= {path.with_name(match["stem"] + suffix): None for suffix in SUFFIXES}
    yield from (path for path in found if path.is_file())


def erase_figures(path: Path, numbers: Collection[int]) -> bool:
    """Rewrite a file of figures without those of some classes, and of an exact fit on all; whether it had any.

    Raises:
        StorageError: it cannot be written.
    """
    before = path.read_bytes()
    after = without_figures(before, numbers, by_line=path.name.endswith(BY_LINE))
    if after != before:
        write_bytes(path, after)
    return after != before


def without_figures(content: bytes, numbers: Collection[int], *, by_line: bool) -> bytes:
    """A file's bytes, JSON or a JSON document in each line (`by_line`), without what is said of some classes alone,
    or of an exact fit on all.

    A line that cannot be read, as a killed run leaves one, goes where it names one of them.
    """
    names = {*(f"class_{number}" for number in numbers), *OF_FIT}
    quoted = [f'"{name}"'.encode() for name in names]
    if not any(name in content for name in quoted):
        return content
    try:
        document = None if by_line else json.loads(content)
    except ValueError:
        document = None
    if document is None:
        lines = content.splitlines(keepends=True)
        return b"".join(_line(line, names) if any(name in line for name in quoted) else line for line in lines)
    return (json.dumps(finite(_without(document, names)), indent=2, ensure_ascii=False) + "\n").encode()


def _line(line: bytes, names: Collection[str]) -> bytes:
    try:
        document = json.loads(line)
    except ValueError:
        return b""
    return (json.dumps(finite(_without(document, names)), ensure_ascii=False) + "\n").encode()


def _without(value: Any, names: Collection[str]) -> Any:
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {name: _without(item, names) for name, item in entries if name not in names}
    if isinstance(value, list):
        return [_without(item, names) for item in cast("list[Any]", value)]
    return value
