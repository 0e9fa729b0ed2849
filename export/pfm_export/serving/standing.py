"""A reading of a bundle's files during which none of them changed: others may be writing them, one after another."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pfm.errors import BundleError, ClassNameError, StorageError
from pfm.forgetting.ledger import LEDGER
from pfm_export.serving.bank import BANK
from pfm_export.serving.manifest import MANIFEST
from pfm_export.serving.solving import SOLVED

Found = TypeVar("Found")


def read_standing(folder: Path, read: Callable[[Path], Found]) -> Found:
    """What a function makes of the files of a bundle, all of the same moment.

    Raises:
        BundleError: they are damaged, or do not belong together; only said of files that stood still.
    """
    while True:
        before = _marks(folder)
        try:
            found = _checked(folder, read)
        except BundleError:
            if _marks(folder) == before:
                raise
            continue
        if _marks(folder) == before:
            return found


def _checked(folder: Path, read: Callable[[Path], Found]) -> Found:
    try:
        return read(folder)
    except (StorageError, ClassNameError) as error:
        raise BundleError(str(error)) from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BundleError(f"{folder} is damaged ({type(error).__name__}: {error})") from error


def _marks(folder: Path) -> list[tuple[int, int, int] | None]:
    """What tells each file from one that took its place; None of one that is not there."""
    found: list[tuple[int, int, int] | None] = []
    for name in (MANIFEST, LEDGER, BANK, SOLVED):
        try:
            entry = os.stat(folder / name)
        except OSError:
            found.append(None)
        else:
            found.append((entry.st_ino, entry.st_mtime_ns, entry.st_size))
    return found
