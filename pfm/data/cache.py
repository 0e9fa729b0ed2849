"""Decoded inputs that `--cache DIR` keeps for later commands, with what they hold, so that they can be erased.

DIR/<key>/about.json says what DIR/<key>/rows.bin holds; the key is made of the files' paths, sizes and times (or their
bytes) and of all options of the decoding. An entry is made beside its place and renamed; one process at a time makes.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfm.errors import DataError, StorageError, explain
from pfm.locks import locked
from pfm.storage import write_json

FORMAT = 1
ABOUT, ROWS = "about.json", "rows.bin"
KIND = "decoded inputs"


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """The decoded inputs of one split.

    Attributes:
        folder: that holds them.
        where: what they are called, such as "photos/train".
        kept: places of the files that are in it, among all.
        num_files: how many there were.
        shape, dtype: of the largest row.
        longest: largest first size of a row that there is.
        notes: what was odd when it was made.
        classes: the class of each row by name, "" of an erased one; None where the source did not say.
        erased: names of classes that were erased from it; it is not used any more.
    """

    folder: Path
    where: str
    kept: tuple[int, ...]
    num_files: int
    shape: tuple[int, ...]
    dtype: str
    longest: int
    notes: tuple[str, ...]
    classes: tuple[str, ...] | None
    erased: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Every class that it ever held, in order."""
        return tuple(sorted({*(self.classes or ()), *self.erased} - {""}))

    @property
    def rows(self) -> Path:
        return self.folder / ROWS

    @property
    def size_bytes(self) -> int:
        """Room that the rows take on the disk."""
        return self.rows.stat().st_blocks * 512 if hasattr(os.stat_result, "st_blocks") else self.rows.stat().st_size

    def holds(self, name: str) -> bool:
        """Whether a class is in it, or may be."""
        return self.classes is None or name in self.classes

    def count(self) -> dict[str, int]:
        """Rows of each class."""
        names, counts = np.unique(np.array(self.classes or (), dtype=str), return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}


def read_entry(folder: Path) -> CacheEntry | None:
    """The entry in a folder; None where it is not one."""
    try:
        about: Any = json.loads((folder / ABOUT).read_bytes())
        if (about["kind"], about["format"]) != (KIND, FORMAT) or not (folder / ROWS).is_file():
            return None
        return CacheEntry(
            folder=folder,
            where=about["where"],
            kept=tuple(about["kept"]),
            num_files=about["num_files"],
            shape=tuple(about["shape"]),
            dtype=about["dtype"],
            longest=about["longest"],
            notes=tuple(about["notes"]),
            classes=None if about["classes"] is None else tuple(about["classes"]),
            erased=tuple(about["erased"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entries(folder: Path) -> list[CacheEntry]:
    """All entries of a folder of `--cache`, those of one data set together."""
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [entry for child in children if (entry := read_entry(child)) is not None]
    return sorted(found, key=lambda entry: entry.where)


def erase_classes(entry: CacheEntry, names: Sequence[str]) -> CacheEntry:
    """Overwrite the rows of classes; where the source did not say whose they are, all rows.

    A later command on the same files is refused: it would put the class back.

    Raises:
        StorageError: it cannot be written.
    """
    gone = set(names)
    own = [row for row in range(len(entry.kept)) if entry.classes is None or entry.classes[row] in gone]
    stride = math.prod(entry.shape) * np.dtype(entry.dtype).itemsize
    try:
        with entry.rows.open("r+b") as file:
            for row in own:
                os.pwrite(file.fileno(), bytes(stride), row * stride)
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"cannot write {entry.rows}: {explain(error)}") from error
    left = None if entry.classes is None else tuple("" if name in gone else name for name in entry.classes)
    less = dataclasses.replace(entry, classes=left, erased=tuple(sorted(gone | set(entry.erased))))
    write_about(less)
    return less


_LOCK = ".lock"


class Cache:
    """The folder of `--cache`.

    Raises:
        StorageError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make {folder}: {explain(error)}; give another --cache") from error

    def key(self, sources: Iterable[Any], job: Any) -> str:
        """Name of the entry of these files, decoded so."""
        found = hashlib.sha256(f"{FORMAT} {job!r}".encode())
        for source in sources:
            if isinstance(source, Path):
                with contextlib.suppress(OSError):
                    facts = source.stat()
                    found.update(f"\0{source.absolute()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
                    continue
            found.update(hashlib.sha256(source if isinstance(source, bytes) else repr(source).encode()).digest())
        return found.hexdigest()[:32]

    def find(self, key: str) -> CacheEntry | None:
        """The entry of this name, whole.

        Raises:
            DataError: classes were erased from it. The files are the same, so that it would hold them again.
        """
        entry = read_entry(self.folder / key)
        if entry is not None and entry.erased:
            raise DataError(
                f"{', '.join(entry.erased)} was erased from what {self.folder} keeps of {entry.where}, and the data "
                "still has it; take it out of the data, or give another --cache"
            )
        return entry

    @contextlib.contextmanager
    def making(self, key: str) -> Iterator[Path]:
        """A folder to make an entry in, alone; the entry is there once the block ends without an error."""
        with locked(self.folder / _LOCK):
            if self.find(key) is not None:  # another process was faster
                yield self.folder / key
                return
            beside = self.folder / f"{key}.part"
            shutil.rmtree(beside, ignore_errors=True)  # of a process that was killed
            try:
                beside.mkdir()
                yield beside
                shutil.rmtree(self.folder / key, ignore_errors=True)  # damaged
                os.replace(beside, self.folder / key)
            except OSError as error:
                raise StorageError(f"cannot write into {self.folder}: {explain(error)}") from error
            finally:
                shutil.rmtree(beside, ignore_errors=True)


def write_about(entry: CacheEntry) -> None:
    """Write what an entry holds, beside its rows."""
    write_json(
        entry.folder / ABOUT,
        {
            "kind": KIND,
            "format": FORMAT,
            "where": entry.where,
            "num_files": entry.num_files,
            "shape": list(entry.shape),
            "dtype": entry.dtype,
            "longest": entry.longest,
            "notes": list(entry.notes),
            "kept": list(entry.kept),
            "classes": None if entry.classes is None else list(entry.classes),
            "erased": list(entry.erased),
        },
    )
