"""Groups and samples taken out of checkpoint files, and the record of it.

Two lines go into `ledger.jsonl`, one before the file changes and one after; neither says which samples. Killed between,
the next command there completes the record.
"""

import dataclasses
import secrets
from pathlib import Path

from pfm.errors import StorageError, TraceFoundError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts.checkpoints import exact_facts
from pfm.forgetting.figures import erase_figures, figure_files
from pfm.forgetting.files import REMAINS_EXACT, finish
from pfm.forgetting.ledger import LEDGER, LOCK, Record
from pfm.forgetting.samples import Removal, Removed, remove
from pfm.locks import locked
from pfm.model.checkpoint import Checkpoint, checkpoint_bytes, load_checkpoint
from pfm.model.readouts.ridge import memory_of
from pfm.storage import sha256, sha256_bytes, write_bytes

BEGIN, DONE, ABANDONED = "erase-samples-begin", ledger.ERASE_SAMPLES, "abandoned"


def erase_samples(
    source: Path, removal: Removal, *, target: Path | None = None, reason: str = "", requested_by: str = ""
) -> tuple[Removed, Record]:
    """Take groups and samples out of a checkpoint file.

    Args:
        target: file to write, where `source` is to stay as it is.

    Returns:
        what was taken out, and the record.

    Raises:
        ConfigError: the readout is not one that can, or keeps no samples.
        ClassNameError: there is no such group or sample.
        StorageError: `target` exists, or a ledger is not whole.
    """
    target = target or source
    is_copy = target.resolve() != source.resolve()
    if is_copy and target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    with locked(target.parent / LOCK):
        finish(target.parent)
        finish_samples(target.parent)
        checkpoint = load_checkpoint(source)
        own = source.parent / LEDGER
        ledger.require(own, ledger.read(own), checkpoint.ledger_head, by=source.name)
        removed = remove(checkpoint, removal)
        path = target.parent / LEDGER
        entry = {"file": target.name, "source": source.name, "kind": "checkpoint", "sha256_before": sha256(source)}
        told = {
            "request": secrets.token_hex(8),
            "classes": [{"id": i, "name": n} for i, n in removed.checkpoint.erased[len(checkpoint.erased) :]],
            "groups": len(removal.groups),
            "samples": len(removal.samples),
            "rows": removed.num_samples,
            "remains": list(REMAINS_EXACT),
            "reason": reason,
            "requested_by": requested_by,
        }
        facts = exact_facts(removed.checkpoint)
        begun = ledger.append(path, {"action": BEGIN, **told, "files": [{**entry, **facts}]})
        content = checkpoint_bytes(dataclasses.replace(removed.checkpoint, ledger_head=begun["hash"]))
        _search(content, checkpoint, removed.checkpoint)
        write_bytes(target, content, is_private=True)
        after = {**entry, **facts, "sha256_after": sha256_bytes(content)}
        return removed, ledger.append(path, _done(target.parent, begun, after))


def finish_samples(folder: Path) -> None:
    """Record what a process did that was killed before it could say so. The caller holds the folder's lock."""
    path = folder / LEDGER
    records = ledger.read(path)
    done = {record.get("begun") for record in records}
    for begun in records:
        if begun.get("action") != BEGIN or begun["hash"] in done:
            continue
        (entry,) = begun["files"]
        target = folder / entry["file"]
        is_written = target.exists() and load_checkpoint(target).ledger_head == begun["hash"]
        if is_written:
            ledger.append(path, _done(folder, begun, {**entry, "sha256_after": sha256(target)}))
        else:
            ledger.append(path, {"action": ABANDONED, "request": begun["request"], "begun": begun["hash"]})


def _done(folder: Path, begun: Record, after: Record) -> Record:
    """The line that says what was done, once the figures beside the file are without what went."""
    told = {k: v for k, v in begun.items() if k not in ("action", "files", "hash", "previous", "time", "pfm")}
    in_place = [folder / after["file"]] if after["source"] == after["file"] else []
    numbers = [item["id"] for item in begun["classes"]]
    figures = [file.name for file in figure_files(in_place) if erase_figures(file, numbers)]
    return {"action": DONE, "begun": begun["hash"], **told, "files": [after], "figures": figures}


def _search(content: bytes, before: Checkpoint, after: Checkpoint) -> None:
    """Look for the integers of every sample that went in the bytes that are to be written.

    Raises:
        TraceFoundError: one is there; nothing is written.
    """
    old, new = memory_of(before).rows, memory_of(after).rows
    assert old is not None
    left = set() if new is None else {row.tobytes() for row in new.values}
    for row in old.values:
        own = row.tobytes()
        if own not in left and own in content:
            raise TraceFoundError("the integers of a sample that was taken out are in the bytes to be written")
