"""Erasures of checkpoint files, and the record of them.

An erasure writes two lines into `ledger.jsonl`: what is about to be erased from which files, before any of
them changes, and what was done, after. An artifact that was erased from names the first line. Killed at
any moment, the next erasure in that folder first finishes what was announced.
"""

import dataclasses
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pfm.errors import ConfigError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.centring import CENTRED
from pfm.forgetting.erase import ERASED, class_rows, erase
from pfm.forgetting.figures import erase_figures, figure_files
from pfm.forgetting.ledger import LEDGER, LOCK, Record
from pfm.forgetting.search import SearchReport, search
from pfm.model.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from pfm.storage import locked, sha256, sha256_bytes, write_bytes

REMAINS = (
    "the shared weights (adapters and whatever else is not per class) were trained with samples of the erased "
    "classes too; erasing does not change them",
    "other copies of the source file (backups, earlier epochs, exports) are out of reach",
)
REMAINS_IN_PLACE = (
    REMAINS[0],
    "copies of these files elsewhere (backups, snapshots, exports not named here) are out of reach, and so are the "
    "disk's own blocks until they are written again",
)
SCRUBBED = (
    "the shared weights were retuned without the erased classes' samples; what an attack still gets out of them was "
    "measured when that was done, and is not zero for certain"
)

# of a file that was written by a process that did not live to record it
SEARCHED_BEFORE = "before it was written, by a process that was killed before it could say what for"


def erased_path(source: Path, checkpoint: Checkpoint, positions: list[int]) -> Path:
    """The default name of what `pfm forget` writes."""
    numbers = "-".join(str(checkpoint.classes.ids[p]) for p in positions)
    return source.with_name(f"{source.stem}_without_{numbers}{source.suffix}")


def erase_file(
    source: Path,
    checkpoint: Checkpoint,
    keys: Iterable[str | int],
    target: Path,
    *,
    reason: str = "",
    requested_by: str = "",
    scrubbed: Checkpoint | None = None,
) -> Record:
    """Write `target` without the classes and record it in `ledger.jsonl` beside it.

    Args:
        checkpoint: what was read from `source`, which is left as it is.
        scrubbed: what to write instead of the erased checkpoint: the same with retuned shared weights.

    Returns:
        The record, as written.
    """
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the source itself; write to another file, then delete the source")
    folder = target.parent
    before = sha256(source)
    smaller = scrubbed or erase(checkpoint, keys)
    classes = [{"id": number, "name": name} for number, name in smaller.erased[len(checkpoint.erased) :]]
    if target.exists() and not (folder / LEDGER).exists():  # nothing was ever erased into it
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    _make(folder)
    with locked(folder / LOCK):
        finish(folder)
        records = ledger.read(folder / LEDGER)
        if target.exists():
            for record in records:  # the same request again, after it was killed
                entry = record.get("files", [{}])[0]
                same = entry.get("file") == target.name and entry.get("sha256_before") == before
                if record["action"] == "erase" and same and record["classes"] == classes:
                    return record
            raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
        own = source.parent / LEDGER  # the source was recorded where it lies
        ledger.require(own, ledger.read(own), checkpoint.ledger_head, by=source.name)
        begun = _announce(
            folder,
            records,
            classes,
            [{"file": target.name, "source": source.name, "sha256_before": before}],
            remains=REMAINS if scrubbed is None else (SCRUBBED, REMAINS[1]),
            reason=reason,
            requested_by=requested_by,
        )
        content, searched = _without(checkpoint, smaller, begun["hash"], target.name)
        write_bytes(target, content)
        done = finish(folder, {target.name: searched})
        assert done is not None
        return done


def announce_in_place(
    folder: Path,
    files: Sequence[Path],
    classes: Sequence[tuple[int, str]],
    *,
    request: str = "",
    reason: str = "",
    requested_by: str = "",
) -> None:
    """Record that classes are about to be erased from checkpoints of a folder, in place.

    Until `finish` was called for the folder, nothing has changed. The caller holds the folder's lock and
    has finished what was announced before.

    Raises:
        StorageError: the ledger is broken, or lacks an erasure that one of the files names.
    """
    records = ledger.read(folder / LEDGER)
    for path in files:
        ledger.require(folder / LEDGER, records, load_checkpoint(path).ledger_head, by=path.name)
    _announce(
        folder,
        records,
        [{"id": number, "name": name} for number, name in classes],
        [{"file": path.name, "source": path.name, "sha256_before": sha256(path)} for path in files],
        remains=REMAINS_IN_PLACE,
        request=request,
        reason=reason,
        requested_by=requested_by,
    )


def finish(folder: Path, searched: Mapping[str, SearchReport] | None = None) -> Record | None:
    """Do what was announced in a folder's ledger and not done yet; the record, None where there was nothing.

    Args:
        searched: what files that this process has already written were searched for.
    """
    path = folder / LEDGER
    records = ledger.read(path)
    if not records or records[-1].get("action") != "erase-begin":
        return None
    begun = records[-1]
    files = [_finish_file(folder, begun, entry, searched or {}) for entry in begun["files"]]
    if not any("sha256_after" in entry for entry in files):
        return ledger.append(path, {"action": "abandoned", "request": begun["request"], "begun": begun["hash"]})
    told = {
        key: begun[key]
        for key in ("request", "classes", "erased", "changed", "remains", "reason", "requested_by")
        if key in begun
    }
    in_place = [folder / entry["file"] for entry in begun["files"] if entry["source"] == entry["file"]]
    numbers = [item["id"] for item in begun["classes"]]
    figures = [file.name for file in figure_files(in_place) if erase_figures(file, numbers)]
    done = {"action": "erase", "begun": begun["hash"], **told, "files": files, "figures": figures}
    return ledger.append(path, done)


def _finish_file(folder: Path, begun: Record, entry: Record, known: Mapping[str, SearchReport]) -> Record:
    """Erase from one file what was announced, where that is not done yet."""
    target = folder / entry["file"]
    is_copy = entry["source"] != entry["file"]
    plain = dict(entry)
    if not target.exists():  # a copy that was never written, or a file that was deleted meanwhile: the class is gone
        return {**plain, "missing": True}
    checkpoint = load_checkpoint(target)
    if checkpoint.ledger_head == begun["hash"]:
        report = known.get(target.name)
        return {**plain, "sha256_after": sha256(target), "searched": report.to_dict() if report else SEARCHED_BEFORE}
    if is_copy:  # somebody else's file
        return {**plain, "missing": True}
    before = sha256(
        target
    )  # another than announced where a run wrote the file once more; it is erased from all the same
    numbers = {item["id"] for item in begun["classes"]}
    positions = [p for p, number in enumerate(checkpoint.classes.ids) if number in numbers]
    smaller = erase(checkpoint, [checkpoint.classes.names[p] for p in positions]) if positions else checkpoint
    content, searched = _without(checkpoint, smaller, begun["hash"], target.name)
    write_bytes(target, content)
    after = {"sha256_before": before, "sha256_after": sha256_bytes(content)}
    return {**plain, **after, "searched": searched.to_dict()}


def _without(checkpoint: Checkpoint, smaller: Checkpoint, head: str, name: str) -> tuple[bytes, SearchReport]:
    """The bytes of the smaller checkpoint, and what they were searched for before they are written.

    Raises:
        TraceFoundError: they hold something of a class that is gone.
    """
    content = checkpoint_bytes(dataclasses.replace(smaller, ledger_head=head))
    gone = [p for p, number in enumerate(checkpoint.classes.ids) if number not in smaller.classes.ids]
    kept = class_rows(smaller, range(len(smaller.classes)))
    return content, search(content, class_rows(checkpoint, gone), kept=kept, file=name)


def _announce(
    folder: Path,
    records: list[Record],
    classes: list[Record],
    files: list[Record],
    *,
    remains: Sequence[str],
    request: str = "",
    reason: str,
    requested_by: str,
) -> Record:
    entry = {
        "action": "erase-begin",
        "request": request or secrets.token_hex(8),
        "classes": classes,
        "files": files,
        "erased": list(ERASED),
        "changed": list(CENTRED),
        "remains": list(remains),
        "reason": reason,
        "requested_by": requested_by,
    }
    sealed = ledger.seal(records, entry)
    ledger.write(folder / LEDGER, [*records, sealed])
    return sealed


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}; choose another place") from error
