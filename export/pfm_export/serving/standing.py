"""A reading of a bundle's files during which none of them changed: others may be writing them, one after another."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pfm.errors import BundleError, ClassNameError, StorageError
from pfm.forgetting.ledger import LEDGER
from pfm_export.serving.bank import BANK
from pfm_export.serving.manifest import MANIFEST
from pfm_export.serving.solving import SOLVED

NEEDED = (MANIFEST, LEDGER, BANK)
PATIENCE_S = 10.0  # with others who write, each for some milliseconds

Found = TypeVar("Found")
Stamp = tuple[tuple[int, int, int] | None, ...]


def read_standing(folder: Path, read: Callable[[Path], Found]) -> tuple[Stamp, Found]:
    """What a function makes of the files of a bundle, all of the same moment, and their stamp.

    Raises:
        BundleError: they are damaged, or do not belong together, which is only said of files that stood still; or they
            never do.
    """
    until = time.monotonic() + PATIENCE_S
    while True:
        before = stamp_of(folder)
        try:
            found = _checked(folder, read)
        except BundleError:
            if stamp_of(folder) == before:
                raise
        else:
            if stamp_of(folder) == before:
                return before, found
        if time.monotonic() > until:
            raise BundleError(f"{folder} does not stand still: others write into it; stop them, and try again")


def stamp_of(folder: Path) -> Stamp:
    """What tells each file from one that took its place, those of `NEEDED` first; None of one that is not there."""
    base = str(folder)  # twice in each call of a session: no paths are made of it
    found: list[tuple[int, int, int] | None] = []
    for name in (*NEEDED, SOLVED):  # the last is there once an exact readout was solved again
        try:
            entry = os.stat(f"{base}/{name}")
        except OSError:
            found.append(None)
        else:
            found.append((entry.st_ino, entry.st_mtime_ns, entry.st_size))
    return tuple(found)


def _checked(folder: Path, read: Callable[[Path], Found]) -> Found:
    try:
        return read(folder)
    except (StorageError, ClassNameError) as error:
        raise BundleError(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{folder} is damaged ({type(error).__name__}: {error})") from error
