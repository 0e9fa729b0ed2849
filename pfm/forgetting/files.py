"""Erasures of checkpoint files, and the record of them.

An erasure writes two lines into `ledger.jsonl`: what is about to be erased from which files, before any of
them changes, and what was done, after. An artifact that was erased from names the first line. Killed at
any moment, the next erasure in that folder first finishes what was announced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.classes import ClassKeys
from pfm.errors import ConfigError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import ARTIFACT_KINDS, HoldingKind, Request
from pfm.forgetting.artifacts.checkpoints import content_of, exact_facts
from pfm.forgetting.centring import CENTRED, CENTRED_PROMPTS, SUM_LEFT
from pfm.forgetting.erase import ERASED, erase, prompts_are_centred
from pfm.forgetting.figures import erase_figures, figure_files
from pfm.forgetting.ledger import LEDGER, LOCK, PROMPTS_CENTRED, Record
from pfm.forgetting.search import SearchReport
from pfm.locks import locked
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts import READOUTS
from pfm.model.starts import follows
from pfm.storage import check_file, sha256, sha256_bytes, write_bytes

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
REMAINS_EXACT = (
    "the frozen backbone was trained before, on data that this does not cover; what was made of the samples is gone, "
    "and the weights are those of a fit that never saw them",
    "copies of these files elsewhere (backups, snapshots, exports) are out of reach; the difference of two copies "
    "shows what left",
)
RETUNED = (
    "the shared weights were retuned without the erased classes' samples; what an attack still gets out of them was "
    "measured when that was done, and is not zero for certain"
)
RETRAINED = (
    "everything that is trained was trained again without a sample of the erased classes, by the recipe of before; "
    "what can still be of them is what was not trained here: the backbone it started from, and options of the recipe "
    "that somebody chose by looking at these classes"
)


@dataclass(frozen=True, kw_only=True)
class Scrubbed:
    """An erased checkpoint with other shared weights.

    Attributes:
        is_retrained: nothing in it was computed from samples of the classes.
    """

    checkpoint: Checkpoint
    is_retrained: bool

    @property
    def remains(self) -> str:
        """What is still to be said of the shared weights."""
        return RETRAINED if self.is_retrained else RETUNED


# what the last line of an erasure repeats of the first
_TOLD = ("request", "classes", "erased", "changed", "remains", "reason", "requested_by", "looked")
# of a file that was written by a process that did not live to record it
SEARCHED_BEFORE = "before it was written, by a process that was killed before it could say what for"


def erased_path(source: Path, checkpoint: Checkpoint, positions: list[int]) -> Path:
    """The default name of what `pfm forget` writes."""
    numbers = "-".join(str(checkpoint.classes.ids[p]) for p in positions)
    return source.with_name(f"{source.stem}_without_{numbers}{source.suffix}")


def check_copy(source: Path, target: Path) -> None:
    """Refuse a file that a copy without classes cannot be written to.

    Raises:
        ConfigError: it is the source itself.
        StorageError: it cannot be written, or is there, and nothing was ever erased into its folder.
    """
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the source itself; write to another file, then delete the source")
    if target.exists() and not (target.parent / LEDGER).exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    check_file(target)


def erase_file(
    source: Path,
    checkpoint: Checkpoint,
    keys: ClassKeys,
    target: Path,
    *,
    request: Request | None = None,
    scrubbed: Scrubbed | None = None,
) -> Record:
    """Write `target` without the classes and record it in `ledger.jsonl` beside it.

    Args:
        checkpoint: what was read from `source`, which is left as it is.
        request: reason and all; one without any by default.
        scrubbed: what to write instead of the erased checkpoint: the same with retuned shared weights.

    Returns:
        The record, as written.
    """
    check_copy(source, target)
    folder, request = target.parent, request or Request()
    before = sha256(source)
    smaller = scrubbed.checkpoint if scrubbed else erase(checkpoint, keys, centre_prompts=request.centre_prompts)
    centred = {PROMPTS_CENTRED: True} if prompts_are_centred(smaller) else {}
    classes = [{"id": number, "name": name} for number, name in smaller.erased[len(checkpoint.erased) :]]
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
            [{"file": target.name, "source": source.name, "sha256_before": before, **centred, **exact_facts(smaller)}],
            remains=_remains(checkpoint, smaller, scrubbed),
            request=request,
        )
        content, searched = content_of(checkpoint, smaller, begun["hash"], target.name)
        write_bytes(target, content, like=source, is_private=smaller.is_personal)
        done = finish(folder, {target.name: searched})
        assert done is not None
        return done


def _remains(checkpoint: Checkpoint, smaller: Checkpoint, scrubbed: Scrubbed | None) -> Sequence[str]:
    if smaller.exact.get("is_solved"):
        return REMAINS_EXACT
    if scrubbed is None:
        readout = READOUTS.get(checkpoint.model.readout)
        claims = readout.sees_prompts and not readout.class_rows and not prompts_are_centred(smaller)
        return (*REMAINS, follows(checkpoint.start), *((SUM_LEFT,) if claims else ()))
    # weights that were trained without a class answer to no key of it, whatever its start follows from
    return (scrubbed.remains, REMAINS[1], *(() if scrubbed.is_retrained else (follows(checkpoint.start),)))


def announce_in_place(
    folder: Path,
    files: Sequence[tuple[str, Path]],
    classes: Sequence[tuple[int, str]],
    *,
    looked: Mapping[str, Any] | None = None,
    request: Request | None = None,
    is_exact: bool = False,
) -> None:
    """Record that classes are about to be erased from files of a folder, in place.

    Until `finish` was called for the folder, nothing has changed. The caller holds the folder's lock, has finished
    what was announced before, and has seen that the ledger holds what the files name.

    Args:
        files: kind and path of each.
        looked: what was seen of the folder's other files.
        request: reason and all; one without any by default.
        is_exact: all of the files become those that never saw the classes.
    """
    request = request or Request()
    opened = [(kind, path, _kind(kind).open(path)) for kind, path in files]
    centres = {
        path: holding.prompts_centred is not None and (request.centre_prompts or holding.prompts_centred)
        for _, path, holding in opened
    }
    claims = (SUM_LEFT,) if any(holding.sum_is_left and not centres[path] for _, path, holding in opened) else ()
    said = dict.fromkeys(holding.follows for _, _, holding in opened if holding.follows)
    _announce(
        folder,
        ledger.read(folder / LEDGER),
        [{"id": number, "name": name} for number, name in classes],
        [
            {
                "file": path.name,
                "source": path.name,
                "kind": kind,
                "sha256_before": sha256(path),
                **({PROMPTS_CENTRED: True} if centres[path] else {}),
                "left": _kind(kind).left(path, classes, centre_prompts=centres[path]),
            }
            for kind, path in files
        ],
        remains=REMAINS_EXACT if is_exact else (*REMAINS_IN_PLACE, *said, *claims),
        looked=looked,
        request=request,
    )


def finish(folder: Path, searched: Mapping[str, SearchReport] | None = None) -> Record | None:
    """Do what was announced in a folder's ledger and not done yet; the last record, None where there was nothing.

    Args:
        searched: what files that this process has already written were searched for.
    """
    records = ledger.read(folder / LEDGER)
    done = {record.get("begun") for record in records}
    waiting = [begun for begun in records if begun.get("action") == "erase-begin" and begun["hash"] not in done]
    for begun in waiting:
        ledger.check_announced(begun, folder / LEDGER)
    last = None
    for begun in waiting:
        last = _finish_one(folder, begun, searched or {})
    return last


def _finish_one(folder: Path, begun: Record, searched: Mapping[str, SearchReport]) -> Record:
    path = folder / LEDGER
    files = [_finish_file(folder, begun, entry, searched) for entry in begun["files"]]
    if not any("sha256_after" in entry for entry in files):
        return ledger.append(path, {"action": "abandoned", "request": begun["request"], "begun": begun["hash"]})
    told = {key: begun[key] for key in _TOLD if key in begun}
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
    if target.is_symlink():  # what is announced is a file of this folder, and a link may lead anywhere
        raise StorageError(
            f"{target} is a link, and was a file of its folder when its erasure was announced; put the file back"
        )
    kind = _kind(entry.get("kind", "checkpoint"))
    gone, centre = [(item["id"], item["name"]) for item in begun["classes"]], entry.get(PROMPTS_CENTRED) is True
    rewritten = kind.rewrite(target, gone, begun["hash"], centre_prompts=centre)
    if rewritten is None:
        if "left" in entry and kind.left(target, ()) != entry["left"]:
            raise StorageError(
                f"{target} names the announced erasure and holds other classes than that leaves: it was changed by "
                "hand; put the file of before back, and erase from it again"
            )
        report = known.get(target.name)
        return {**plain, "sha256_after": sha256(target), "searched": report.to_dict() if report else SEARCHED_BEFORE}
    if is_copy:  # somebody else's file
        return {**plain, "missing": True}
    before = sha256(target)  # another than announced where a run wrote it once more; it is erased from all the same
    after = before
    if rewritten.content is not None:
        write_bytes(target, rewritten.content)
        after = sha256_bytes(rewritten.content)
    return {**plain, **rewritten.facts, "sha256_before": before, "sha256_after": after}


def _kind(name: str) -> HoldingKind:
    kind = ARTIFACT_KINDS.get(name)
    if not isinstance(kind, HoldingKind):
        raise StorageError(f"the ledger announces an erasure from a {name}, which holds no class; it was changed")
    return kind


def _announce(
    folder: Path,
    records: list[Record],
    classes: list[Record],
    files: list[Record],
    *,
    remains: Sequence[str],
    looked: Mapping[str, Any] | None = None,
    request: Request,
) -> Record:
    centred = (CENTRED_PROMPTS,) if any(PROMPTS_CENTRED in file for file in files) else ()
    entry = {
        "action": "erase-begin",
        "request": request.id,
        "classes": classes,
        "files": files,
        "erased": list(ERASED),
        "changed": [*CENTRED, *centred],
        "remains": list(remains),
        "reason": request.reason,
        "requested_by": request.requested_by,
        **({"looked": dict(looked)} if looked else {}),
    }
    sealed = ledger.seal(records, entry)
    ledger.write(folder / LEDGER, [*records, sealed])
    return sealed


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write into {folder}: {error.strerror}; choose another place") from error
