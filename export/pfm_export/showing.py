"""What an artifact is: a checkpoint, a bundle, a ledger, or a folder that holds some; as a document and as a table.

Bundles and ledgers are read without torch.
"""

import dataclasses
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pfm.classes import ClassList
from pfm.data.cache import CacheEntry, read_entry
from pfm.errors import CheckpointError, PfmError, StorageError, explain
from pfm.forgetting import certificate, ledger
from pfm.forgetting.artifacts import FolderKind, HoldingKind, Verdict
from pfm.forgetting.artifacts.decoded import DECODED
from pfm.forgetting.artifacts.walk import Seen
from pfm.forgetting.ledger import LEDGER, Record
from pfm.model.starts import stated as start_stated
from pfm.storage import Json, parse_json, read_ordinary, sha256
from pfm_export.serving.artifacts import look_at
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import is_bundle

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint

_SHOWN_OF_RECIPE = ("batch_size", "lr", "schedule")  # what of a run's training section is shown beside its epochs


def describe(path: Path) -> Json:
    """What is at a path.

    Raises:
        PfmError: nothing, or nothing that pfm writes.
    """
    try:
        if is_bundle(path):
            return _describe_bundle(path)
        if (entry := read_entry(path)) is not None:
            return _describe_decoded(entry)
        if path.is_dir():
            return _describe_folder(path)
        if not path.is_file():
            raise CheckpointError(f"there is no checkpoint, bundle, ledger or folder {path}")
        if path.suffix == ".jsonl":
            return _describe_ledger(path)
        if path.suffix == ".json":
            _refuse_json(path)
        return _describe_checkpoint(path)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error


def _refuse_json(path: Path) -> None:
    """Say what reads a JSON file of ours, if it is one.

    Raises:
        CheckpointError: always.
    """
    try:
        found = parse_json(read_ordinary(path))
    except ValueError:
        found = None
    is_certificate = isinstance(found, dict) and cast("Json", found).get("format") == certificate.FORMAT
    if is_certificate:
        raise CheckpointError(f"{path} is a certificate; pfm verify {shlex.quote(str(path))} reads it")
    raise CheckpointError(f"{path} is not a checkpoint, bundle, ledger or folder")


# --- documents ----------------------------------------------------------------------------------


def _describe_checkpoint(path: Path) -> Json:
    from pfm.model.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    place = path.resolve().parent / LEDGER
    return {
        "kind": "checkpoint",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "sha256": sha256(path),
        "pfm": checkpoint.written_by or None,
        **_classes(checkpoint.classes, checkpoint.erased),
        "readout": checkpoint.model.readout,
        "target": checkpoint.model.wrong_target,
        "unknown_below": checkpoint.unknown_below or None,
        "start": {} if checkpoint.exact else start_stated(checkpoint.start, init_key=checkpoint.init_key),
        "exact": _exact_of_checkpoint(checkpoint),
        "backbone": {
            "model_name": checkpoint.spec.model_name,
            "commit": checkpoint.spec.commit or None,
            "family": checkpoint.spec.family.name,
            "input": checkpoint.spec.describe_size(),
            "layers": checkpoint.spec.num_layers,
            "hidden_size": checkpoint.spec.hidden_size,
            "frozen_sha256": checkpoint.frozen_sha256 or None,
        },
        "recipe": _recipe_of(checkpoint),
        "model": dataclasses.asdict(checkpoint.model),
        "lora": None if checkpoint.lora is None else dataclasses.asdict(checkpoint.lora),
        "run": checkpoint.run,
        "numbers_stored": sum(tensor.numel() for tensor in checkpoint.tensors.values()),
        "holds": [
            name
            for name, value in (("optimizer moments", checkpoint.moments), ("averaged copies", checkpoint.averaged))
            if value
        ],
        "can_be_resumed": bool(checkpoint.progress),
        "ledger": _ledger_beside(place, path.resolve().name, checkpoint.ledger_head),
        "notes": list(checkpoint.notes),
    }


def _exact_of_checkpoint(checkpoint: "Checkpoint") -> Json | None:
    """What a readout that is solved keeps, and what it is a function of; None of others."""
    record = checkpoint.exact
    if not record:
        return None
    return {
        "digest": record["digest"],
        "is_exact": record["is_solved"],
        "memory": record["memory"],
        "memory_bytes": sum(tensor.nbytes for tensor in checkpoint.memory.values()),
        "samples": sum(record["counts"]),
        "groups": len(record["groups"]),
    }


def _exact_of_bundle(bundle: Bundle) -> Json | None:
    """The same of a bundle."""
    if bundle.exact is None:
        return None
    files = [bundle.folder / name for name in bundle.exact.files]
    return {
        "digest": bundle.exact.digest,
        "is_exact": bundle.is_exact,
        "memory": "sums" if bundle.exact.has_sums else "none",
        "memory_bytes": sum(map(_size_of, files)),
        "samples": sum(entry.count for entry in bundle.exact.classes),
        "groups": 0,
    }


def _recipe_of(checkpoint: "Checkpoint") -> Json:
    train: Mapping[str, Any] = checkpoint.run.get("train", {})
    return {
        "dataset": checkpoint.run.get("data", {}).get("dataset"),
        "data_commit": checkpoint.data_commit or None,
        "model_name": checkpoint.spec.model_name or None,
        "commit": checkpoint.spec.commit or None,
        "epoch": checkpoint.epoch,
        "epochs": train.get("epochs"),
        "step": checkpoint.step,
        "seed": checkpoint.seed,
        **{name: train[name] for name in _SHOWN_OF_RECIPE if name in train},
        "recipe": checkpoint.run.get("recipe", {}).get("recipe"),
    }


def _describe_bundle(folder: Path) -> Json:
    bundle = Bundle.open(folder)
    stated, document = bundle.stated, bundle.manifest
    numbers = dict(zip(bundle.classes.ids, bundle.classes.names, strict=True))
    training: Mapping[str, Any] = document.get("training", {})
    backbone: Mapping[str, Any] = document.get("backbone", {})
    return {
        "kind": "bundle",
        "path": str(folder),
        "size_bytes": sum(map(_size_of, folder.rglob("*"))),
        "bundle": document.get("bundle"),
        "pfm": document.get("pfm"),
        "created": document.get("created"),
        **_classes(bundle.classes, (*stated.erased, *bundle.pending)),
        "pending": [name for _, name in bundle.pending],
        "readout": stated.readout,
        "target": document.get("wrong_target"),
        "unknown_below": stated.unknown_below or None,
        "start": {} if bundle.exact else document.get("start") or start_stated(""),
        "exact": _exact_of_bundle(bundle),
        "precision": stated.precision,
        "form": document.get("form"),
        "input": document.get("input"),
        "backbone": {
            "model_name": backbone.get("model_name"),
            "commit": backbone.get("commit"),
            "hidden_size": stated.hidden_size,
        },
        "recipe": {
            "data_commit": training.get("data_commit"), "model_name": backbone.get("model_name"),
            "commit": backbone.get("commit"), "epoch": training.get("epoch"), "seed": training.get("seed"),
            "recipe": training.get("recipe"),
        },
        "profiles": {
            name: [numbers[number] for number in left_out if number in numbers]
            for name, left_out in stated.profiles.items()
        },
        "files": {name: _file(folder / name, file.sha256) for name, file in stated.files.items()},
        "opset": document.get("opset"),
        "versions": document.get("versions"),
        "ledger": _lines(ledger.read(folder / LEDGER)),
    }  # fmt: skip


def _describe_ledger(path: Path) -> Json:
    content = read_ordinary(path).partition(b"\n")[0]
    try:
        is_ledger = not content or "previous" in parse_json(content)
    except (ValueError, TypeError):
        is_ledger = path.name == LEDGER  # its first line is broken; `ledger.read` says so
    if not is_ledger:
        raise CheckpointError(f"{path} is not a ledger; the ledger of a folder is {LEDGER}")
    records = ledger.read(path)
    return {
        "kind": "ledger",
        "path": str(path),
        "size_bytes": path.stat().st_size,
        "sha256": sha256(path),
        "head": ledger.head(records),
        "lines": _lines(records),
    }


def _describe_decoded(entry: CacheEntry) -> Json:
    holding = DECODED.open(entry.folder)
    return {
        "kind": DECODED.name,
        "path": str(entry.folder),
        "size_bytes": entry.size_bytes,
        "of": entry.where,
        "rows": len(entry.kept),
        **_classes(holding.classes, holding.erased),
    }


def _describe_folder(folder: Path) -> Json:
    """Everything that an erasure of the folder would look at."""
    found, clean = look_at([folder]), dict[str, int]()
    artifacts, closed = list[Json](), list[Json]()
    for seen in found.seen.values():
        if isinstance(seen.kind, FolderKind) or seen.path.name == LEDGER or _is_checkpoint(seen):
            artifacts.append(_described_or_broken(seen.path))
        elif isinstance(seen.kind, HoldingKind):
            artifacts.append(_described_in_short(seen, seen.kind))
        elif seen.verdict is Verdict.CLEAN:
            clean[seen.how] = clean.get(seen.how, 0) + 1
        else:
            closed.append({"path": str(seen.path), "why": seen.how})
    if not artifacts:
        raise CheckpointError(f"{folder} holds no checkpoint, bundle or ledger")
    closed += [{"path": str(part), "why": "half-written"} for part in found.parts]
    return {
        "kind": "folder", "path": str(folder), "artifacts": artifacts, "clean": clean, "not_looked_into": closed,
    }  # fmt: skip


def _is_checkpoint(seen: Seen) -> bool:
    return isinstance(seen.kind, HoldingKind) and seen.kind.name == "checkpoint"


def _described_in_short(seen: Seen, kind: HoldingKind) -> Json:
    """An artifact that has nothing to show but its classes."""
    try:
        holding = kind.open(seen.path)
    except PfmError as error:
        return {"kind": "cannot be read", "path": str(seen.path), "problem": str(error)}
    about = {"kind": kind.name, "path": str(seen.path), "size_bytes": _size_of(seen.path)}
    return {**about, **_classes(holding.classes, holding.erased)}


def _size_of(path: Path) -> int:
    """Bytes of a file; 0 of what is none, or has gone since it was found: a run and an erasure delete theirs."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0


def _described_or_broken(path: Path) -> Json:
    """Of an artifact in a folder: one that cannot be read is listed with the reason."""
    try:
        return describe(path)
    except PfmError as error:
        return {"kind": "cannot be read", "path": str(path), "problem": str(error)}


def _file(path: Path, stated: str) -> Json:
    """A file of a bundle as it is now, and whether that is what the manifest states."""
    if not path.is_file():
        return {"sha256": None, "size_bytes": 0, "is_as_stated": False}
    found = sha256(path)
    return {"sha256": found, "size_bytes": path.stat().st_size, "is_as_stated": found == stated}


def _classes(classes: ClassList, erased: Iterable[tuple[int, str]]) -> Json:
    """Each class with the position that a command line takes: it stays a class's own when others are erased."""
    return {
        "classes": [
            {"position": number, "name": name} for number, name in zip(classes.ids, classes.names, strict=True)
        ],
        "erased": [{"position": number, "name": name} for number, name in erased],
    }


def _ledger_beside(place: Path, file: str, head: str) -> Sequence[Json]:
    """The lines of the ledger beside a checkpoint that speak of it.

    Raises:
        StorageError: the ledger is broken, or lacks the line that the checkpoint names.
    """
    records = ledger.read(place)
    ledger.require(place, records, head, by=file)
    return [line for line in _lines(records) if file in cast("Sequence[str]", line["files"])]


def _lines(records: Sequence[Record]) -> list[Json]:
    """What the lines of a ledger say.

    Raises:
        StorageError: one says it in another way than pfm does.
    """
    try:
        return _told(records)
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError("the ledger has a line that pfm did not write") from error


def _told(records: Sequence[Record]) -> list[Json]:
    return [
        {
            "line": number,
            "time": record["time"],
            "action": record.get("action"),
            "classes": record.get("classes", []),
            "files": [entry["file"] for entry in record.get("files", [record]) if "file" in entry],
            "reason": record.get("reason", ""),
            "requested_by": record.get("requested_by", ""),
            "hash": record["hash"],
        }
        for number, record in enumerate(records, start=1)
    ]
