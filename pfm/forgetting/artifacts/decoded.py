"""Decoded inputs that `--cache` keeps: the pixels and features of a class go with it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pfm.classes import ClassList
from pfm.data.cache import ABOUT, ROWS, CacheEntry, erase_classes, read_entry
from pfm.forgetting.artifacts.kind import FolderKind, Holding, Request, unreadable


class DecodedKind(FolderKind):
    """An entry of a folder of `--cache`."""

    name = "decoded inputs"
    is_kept = False
    record = ABOUT

    def recognises(self, folder: Path) -> bool:
        return (folder / ABOUT).is_file() and (folder / ROWS).is_file()

    def members(self, folder: Path) -> tuple[Path, ...]:
        return folder / ABOUT, folder / ROWS

    def open(self, folder: Path) -> Holding:
        entry = self._read(folder)
        there = [(number, name) for number, name in enumerate(entry.names) if name not in entry.erased]
        classes = ClassList(ids=tuple(number for number, _ in there), names=tuple(name for _, name in there))
        gone = tuple((number, name) for number, name in enumerate(entry.names) if name in entry.erased)
        return Holding(classes=classes, erased=gone, still="")

    def finish(self, folder: Path) -> bool:
        return False  # rows are overwritten before the entry says so: the same erasure does it again

    def erase(self, folder: Path, names: Sequence[str], request: Request, looked: Mapping[str, Any]) -> None:
        del request, looked
        erase_classes(self._read(folder), names)

    def _read(self, folder: Path) -> CacheEntry:
        entry = read_entry(folder)
        if entry is None:
            raise unreadable(folder, "decoded inputs that are damaged; delete the folder, it is made anew")
        return entry


DECODED = DecodedKind()
