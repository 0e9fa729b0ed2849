"""The record of erasures: one JSON line each, every line carrying the hash of the line before.

A line that is changed, removed or put elsewhere breaks the chain, and `read` says where. A chain that
lost its last lines still holds; what notices that is a hash kept elsewhere, in every artifact that was
erased from (`require`) and in certificates.
"""

import datetime
import json
from pathlib import Path
from typing import Any, TypeAlias

from pfm import __version__
from pfm.errors import StorageError
from pfm.holding import LEDGER, LOCK
from pfm.storage import explain, sha256_bytes, write_bytes

__all__ = ["LEDGER", "LOCK", "START", "Record", "append", "canonical", "head", "read", "require", "seal", "write"]

Record: TypeAlias = dict[str, Any]  # one line, as it stands in the file

START = "0" * 64


def canonical(record: Record) -> bytes:
    """The one byte string of a record that is hashed."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # what is no valid text (a byte of another encoding, typed on the command line) becomes JSON's own escape
    return text.encode(errors="backslashreplace")


def read(path: Path) -> list[Record]:
    """All records, oldest first; none where there is no file.

    Raises:
        StorageError: a line that is not JSON, or one whose hash or predecessor does not fit;
            a file that cannot be read.
    """
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error
    records: list[Record] = []
    previous = START
    lines = content.split(b"\n")
    if lines[-1] == b"":  # the newline that ends the last line
        lines.pop()
    elif lines:
        lines[-1] += b"\n(cut off)"  # no JSON, so the line is named below
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            body = {key: value for key, value in record.items() if key != "hash"}
            # compared as bytes: a blank more would be the same record, and yet not what was written
            intact = line == canonical(record) and record["previous"] == previous
            intact = intact and record["hash"] == sha256_bytes(canonical(body))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            intact = False
            record = {}
        if not intact:
            raise StorageError(f"{path}, line {number}: the record was changed; the chain of erasures is broken there")
        previous = record["hash"]
        records.append(record)
    return records


def head(records: list[Record]) -> str:
    """Hash of the newest record; zeros for an empty ledger."""
    return records[-1]["hash"] if records else START


def require(path: Path, records: list[Record], known: str, *, by: str) -> None:
    """Check that a record somebody names is still there.

    Args:
        known: hash of the newest record when `by` was written; "" where it names none.

    Raises:
        StorageError: the ledger lost lines at its end, or is not the one that `by` was recorded in.
    """
    if known and known != START and all(record["hash"] != known for record in records):
        raise StorageError(
            f"{path} lacks the record {known[:12]}… of {by}: its last lines were removed, or it is another ledger; "
            "bring back the ledger that was written beside it"
        )


def seal(records: list[Record], entry: Record) -> Record:
    """`entry` with time, version, its predecessor's hash and its own."""
    body = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "pfm": __version__,
        "previous": head(records),
        **entry,
    }
    return {**body, "hash": sha256_bytes(canonical(body))}


def write(path: Path, records: list[Record]) -> None:
    """Write all records. A link becomes a file: all empty ledgers of a store are one file, which is not ours alone."""
    write_bytes(path, b"".join(canonical(record) + b"\n" for record in records), follow=False)


def append(path: Path, entry: Record) -> Record:
    """Add one record and return it as written."""
    records = read(path)
    sealed = seal(records, entry)
    write(path, [*records, sealed])
    return sealed
