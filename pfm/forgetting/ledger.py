"""The record of erasures: one JSON line each, every line carrying the hash of the line before.

A line that is changed, removed or put elsewhere breaks the chain, and `read` says where. A chain that
lost its last lines still holds; what notices that is a hash kept elsewhere, in every artifact that was
erased from (`require`) and in certificates.
"""

import datetime
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from pfm import __version__
from pfm.errors import StorageError
from pfm.holding import LEDGER, LOCK
from pfm.storage import parse_json, read_ordinary, sha256_bytes, write_bytes

__all__ = [
    "ERASE", "ERASE_SAMPLES", "HASH", "LEDGER", "LOCK", "PROMPTS_CENTRED",
    "START", "Change", "Erasure", "Record", "append", "canonical", "check_announced",
    "digest", "erasures", "head", "held_again", "number", "pairs", "read", "require", "seal", "text", "write",
]  # fmt: skip

Record: TypeAlias = dict[str, Any]  # one line, as it stands in the file

START = "0" * 64
ERASE, ERASE_SAMPLES = "erase", "erase-samples"  # actions
PROMPTS_CENTRED = "prompts_centred"  # key of a file's entry; see `pfm.forgetting.centring`
HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Change:
    """What an erasure made of one file: its SHA-256 before and after, and whether the prompts left were centred."""

    file: str
    before: str
    after: str
    centres_prompts: bool = False


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """A line that says what was erased.

    Attributes:
        line: its number, from 1.
        classes: number and name of each.
        begun: hash of the line that announced it; "" where none did.
        takes_samples: groups or samples went, so that the classes they were of are others now.
    """

    line: int
    hash: str
    time: str
    classes: tuple[tuple[int, str], ...]
    changes: tuple[Change, ...]
    begun: str
    takes_samples: bool = False


def canonical(record: Record) -> bytes:
    """The one byte string of a record that is hashed."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    # two halves of one character become that character, as whoever reads their escapes takes them
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
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
    content = read_ordinary(path)
    records: list[Record] = []
    previous = START
    lines = content.split(b"\n")
    if lines[-1] == b"":  # the newline that ends the last line
        lines.pop()
    elif lines:
        lines[-1] += b"\n(cut off)"  # no JSON, so the line is named below
    for number, line in enumerate(lines, start=1):
        try:
            record = parse_json(line)
            body = {key: value for key, value in record.items() if key != "hash"}
            # compared as bytes: a blank more would be the same record, and yet not what was written
            intact = line == canonical(record) and record["previous"] == previous
            intact = intact and record["hash"] == sha256_bytes(canonical(body))
        except (ValueError, KeyError, AttributeError, TypeError):
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


def erasures(records: Sequence[Record], where: Path, *, with_samples: bool = False) -> list[Erasure]:
    """The lines that say what was erased, oldest first.

    Args:
        with_samples: those too that say that groups or samples went, and no class may have.

    Raises:
        StorageError: one that lacks something, or says it in another way than an erasure does; `where` is named.
    """
    found: list[Erasure] = []
    for line, record in enumerate(records, start=1):
        if record.get("action") in ((ERASE, ERASE_SAMPLES) if with_samples else (ERASE,)):
            try:
                found.append(_erasure(line, record))
            except (KeyError, TypeError, ValueError) as error:
                raise StorageError(f"{where}, line {line} is not a record of an erasure that pfm wrote") from error
    return found


def check_announced(record: Record, where: Path) -> None:
    """Check a line that announces an erasure before it is acted on: a ledger may be anybody's.

    Files are named by a plain name: an announcement never leads out of the ledger's own folder.

    Raises:
        StorageError: it lacks something, or says it in another way than pfm does; `where` is named.
    """
    try:
        text(record["request"])
        pairs(record["classes"])
        if not isinstance(record["files"], list):
            raise TypeError("a list of files is expected")
        for entry in cast("list[Any]", record["files"]):
            for name in (text(entry["file"]), text(entry["source"])):
                if name != Path(name).name or name == ".." or "\0" in name:
                    raise ValueError(f"the name of a file in this folder is expected, got {name[:40]!r}")
            text(entry.get("kind", ""))
            digest(entry["sha256_before"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StorageError(
            f"{where}: the announcement of an erasure, {record['hash'][:12]}…, is not one that pfm wrote; nothing was "
            "done. Put back the ledger that was written there, or take it away"
        ) from error


def _erasure(line: int, record: Record) -> Erasure:
    files = record.get("files", [record])
    changes = tuple(
        Change(
            file=text(entry["file"]),
            before=digest(entry["sha256_before"]),
            after=digest(entry["sha256_after"]),
            centres_prompts=entry.get(PROMPTS_CENTRED) is True,
        )
        for entry in files
        if "sha256_after" in entry
    )
    return Erasure(
        line=line,
        hash=digest(record["hash"]),
        time=text(record["time"]),
        classes=pairs(record["classes"]),
        changes=changes,
        begun=text(record.get("begun", "")),
        takes_samples=record["action"] == ERASE_SAMPLES,
    )


def pairs(classes: Any) -> tuple[tuple[int, str], ...]:
    """Number and name of each class of a list of `{"id": …, "name": …}`.

    Raises:
        KeyError, TypeError, ValueError: it is not one.
    """
    if not isinstance(classes, list):
        raise TypeError("a list of classes is expected")
    return tuple((number(entry["id"]), text(entry["name"])) for entry in cast("list[Any]", classes))


def number(value: Any) -> int:
    """A whole number, 0 or above.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"a whole number is expected, got {str(value)[:40]!r}")
    return value


def text(value: Any) -> str:
    """Any text.

    Raises:
        ValueError: something else.
    """
    if not isinstance(value, str):
        raise ValueError(f"text is expected, got {str(value)[:40]!r}")
    return value


def digest(value: Any) -> str:
    """A SHA-256 in hexadecimal; "" where it was not known.

    Raises:
        ValueError: something else.
    """
    if value != "" and not HASH.fullmatch(text(value)):
        raise ValueError(f"a SHA-256 is expected, got {str(value)[:40]!r}")
    return value


def held_again(
    records: Sequence[Record], classes: Iterable[tuple[int, str]], where: Path
) -> tuple[Erasure, str] | None:
    """The newest erasure of a class that is there all the same, by number or by name, and its name; None without one.

    Raises:
        StorageError: as `erasures`.
    """
    numbers = dict(classes)
    names = set(numbers.values())
    for erasure in reversed(erasures(records, where)):
        for gone, name in erasure.classes:
            if gone in numbers or name in names:
                return erasure, name if name in names else numbers[gone]
    return None


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
