"""An erasure of a bundle that was begun and not finished: manifest, ledger and bank say so together."""

from pathlib import Path

from pfm.errors import BundleError
from pfm.forgetting import ledger
from pfm.forgetting.ledger import Record
from pfm_export.serving.bank import BANK
from pfm_export.serving.manifest import Manifest


def find_pending(folder: Path, stated: Manifest, records: list[Record], bank_sha256: str) -> Record | None:
    """The record of an erasure that was not finished; None where manifest, ledger and bank agree.

    Raises:
        BundleError: they do not belong together.
    """
    before, expected = stated.files[BANK].sha256, stated.ledger_head
    # other files of the folder have lines of their own in between; a bundle's is of its bank
    own = [record for record in records if record.get("file") == BANK]
    heads = [ledger.START, *(record["hash"] for record in own)]
    if heads[-1] == expected:
        if bank_sha256 != before:
            raise BundleError(f"{folder / BANK} was changed; restore it or export again")
        return None
    last = own[-1] if own else {}
    fits = len(own) > 0 and heads[-2] == expected and last.get("sha256_before") == before
    if not fits or bank_sha256 not in (before, last.get("sha256_after")):
        raise BundleError(f"{folder}: manifest, ledger and bank do not belong together; export again")
    return last
