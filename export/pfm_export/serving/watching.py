"""A bundle that others may be writing to: whether it changed, and a reading of it that is whole."""

import os
import shlex
from pathlib import Path

from pfm.errors import BundleError, StorageError, explain
from pfm.forgetting.ledger import LEDGER
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import MANIFEST
from pfm_export.serving.solving import SOLVED

Stamp = tuple[tuple[int, int, int], ...]


def stamp(folder: Path) -> Stamp:
    """What tells cheaply that a bundle's files are others than before.

    Raises:
        BundleError: one of them is gone.
    """
    base = str(folder)  # twice in each call of a session: no paths are made of it
    try:
        found = [os.stat(f"{base}/{name}") for name in (MANIFEST, LEDGER, BANK)]
    except OSError as error:
        raise BundleError(f"{folder} is not a complete bundle any more: {error.filename}: {explain(error)}") from error
    try:  # noqa: SIM105  # cheaper than what it is to be replaced with
        found.append(os.stat(f"{base}/{SOLVED}"))
    except OSError:  # only exact readouts have it, once they were solved again
        pass
    return tuple((entry.st_ino, entry.st_mtime_ns, entry.st_size) for entry in found)


def open_served(folder: Path) -> tuple[Stamp, Bundle]:
    """The same of a bundle that is to be served.

    Raises:
        BundleError: also where it holds a class whose erasure its ledger records.
    """
    seen, bundle = open_whole(folder)
    try:
        again = bundle.held_again
    except StorageError as error:
        raise BundleError(str(error)) from error
    if again:
        raise BundleError(
            f"{again}; it is not served. Put back what the erasure left, or erase the class again: "
            f"pfm forget --in_place {shlex.quote(str(folder))}"
        )
    return seen, bundle


def open_whole(folder: Path) -> tuple[Stamp, Bundle]:
    """Read a bundle that others may be writing at this moment, and its stamp.

    Raises:
        BundleError: it is damaged, which is only said of files that stood still while they were read.
    """
    if not (folder / MANIFEST).is_file():
        return (), Bundle.open(folder)  # which says what is missing
    while True:
        before = stamp(folder)
        bundle = Bundle.open(folder)
        if stamp(folder) == before:
            return before, bundle
