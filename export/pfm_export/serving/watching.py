"""A bundle that is served while others may write to it: whether it changed, and a reading of it that may answer."""

import shlex
from pathlib import Path

from pfm.errors import BundleError, StorageError
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.standing import NEEDED, Stamp, stamp_of


def stamp(folder: Path) -> Stamp:
    """What tells cheaply that a bundle's files are others than before.

    Raises:
        BundleError: one of them is gone.
    """
    found = stamp_of(folder)
    if None in found[: len(NEEDED)]:
        name = NEEDED[found.index(None)]
        raise BundleError(f"{folder} is not a complete bundle any more: {name} is not there, or cannot be read")
    return found


def open_served(folder: Path) -> tuple[Stamp, Bundle]:
    """Read a bundle that others may be writing at this moment and that is to be served, and its stamp.

    Raises:
        BundleError: it is damaged, or holds a class whose erasure its ledger records.
    """
    seen, bundle = Bundle.open_stamped(folder)
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
