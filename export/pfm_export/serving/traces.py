"""Traces in a bundle of classes that go, or went: their rows in its files, or files of before that were put back."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pfm.classes import ClassList
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER, Record
from pfm.forgetting.search import Row, SearchReport, search
from pfm_export.serving.bank import BANK
from pfm_export.serving.manifest import MANIFEST, read_file


def search_files(
    folder: Path, bank: bytes, rows: Sequence[Row], *, kept: Sequence[Row], names: Iterable[str]
) -> SearchReport:
    """Search a bank that is to be written, and every other file of the bundle, for rows of classes that go.

    A file that is not there holds none; whether it should be, `pfm_export.serving.damage` says.

    Args:
        bank: its bytes.
        rows: of those classes.
        kept: of the others, which may be there.
        names: of the bundle's files.

    Raises:
        TraceFoundError: something of them is there.
    """
    report = search(bank, rows, kept=kept, file=BANK)
    for name in sorted(name for name in {MANIFEST, *names} - {BANK} if (folder / name).is_file()):
        report = report.joined(search(read_file(folder / name), rows, kept=kept, file=name))
    return report


def held_again(folder: Path, classes: ClassList, records: Sequence[Record]) -> str:
    """Which of a bundle's classes its ledger says was erased, under whatever name; "" for none.

    Raises:
        StorageError: the ledger has a line that pfm did not write.
    """
    found = ledger.held_again(records, zip(classes.ids, classes.names, strict=True), folder / LEDGER)
    if found is None:
        return ""
    erasure, name = found
    return (
        f"{folder} holds the class {name}, whose erasure its ledger records (line {erasure.line}, "
        f"{erasure.time}): files of before were put back"
    )


def other_bank(folder: Path, records: Sequence[Record], sha256: str) -> str:
    """That the bank of this hash is not the one that the last erasure left; "" where it is, or none was erased from."""
    left = [record.get("sha256_after") for record in records if record.get("file") == BANK][-1:]
    return (
        f"{folder / BANK} is not what the last erasure left, as its ledger says" if left not in ([], [sha256]) else ""
    )
