"""One erasure over any number of artifacts: checkpoints, resume states, best copies, bundles, run folders.

Everything is read and checked before anything changes. Then each folder's ledger says what is about to be
erased, then the files change one by one, each the old one or the new one, then the ledgers say what was
done. Killed at any moment, the same command completes it.
"""

import contextlib
import os
import secrets
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.classes import check_removal
from pfm.errors import CheckpointError, ClassNameError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER, LOCK
from pfm.options import expanded
from pfm.storage import locked
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import is_bundle

# what may hold tensors and is not ours
_FOREIGN = {".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".onnx", ".npz", ".npy", ".pkl", ".data"}


@dataclass
class Found:
    """The artifacts that some paths name, links followed, each once.

    Attributes:
        folders: those named as a whole.
        foreign: files in them that may hold tensors and are not artifacts of ours.
        linked: files that have another name on this disk, which goes on to hold what is erased here.
    """

    checkpoints: list[Path] = field(default_factory=list[Path])
    bundles: list[Path] = field(default_factory=list[Path])
    folders: list[Path] = field(default_factory=list[Path])
    foreign: list[Path] = field(default_factory=list[Path])
    linked: list[Path] = field(default_factory=list[Path])


@dataclass(frozen=True)
class Outcome:
    """What became of one artifact: "erased", "was erased before", or "never had it"."""

    path: Path
    what: str


def find_artifacts(paths: Iterable[Path]) -> Found:
    """Look at what each path is: a checkpoint, a bundle, or a folder that holds some.

    Raises:
        CheckpointError: nothing is there, or a folder without any artifact.
    """
    found = Found()
    for path in paths:
        place = path.resolve()
        if is_bundle(place):
            found.bundles.append(place)
        elif place.is_dir():
            _look_into(place, path, found)
        elif place.is_file():
            found.checkpoints.append(place)
        else:
            raise CheckpointError(f"there is no checkpoint, bundle or folder {path}")
    found.checkpoints = list(dict.fromkeys(found.checkpoints))
    found.bundles = list(dict.fromkeys(found.bundles))
    named: dict[tuple[int, int], int] = {}
    for file in found.checkpoints:
        status = file.stat()
        key = (status.st_dev, status.st_ino)
        named[key] = named.get(key, 0) + 1
    found.linked = [f for f in found.checkpoints if f.stat().st_nlink > named[(f.stat().st_dev, f.stat().st_ino)]]
    return found


def _look_into(folder: Path, given: Path, found: Found) -> None:
    from pfm.model.checkpoint import load_checkpoint

    before = len(found.checkpoints) + len(found.bundles)
    found.folders.append(folder)
    for root, names, files in os.walk(folder):
        here = Path(root)
        for name in [n for n in names if is_bundle(here / n)]:
            found.bundles.append((here / name).resolve())
            names.remove(name)
        for name in sorted(files):
            file = (here / name).resolve()
            if file.suffix == ".pt" and not name.startswith("."):
                try:
                    load_checkpoint(file)
                except CheckpointError:
                    found.foreign.append(file)
                else:
                    found.checkpoints.append(file)
            elif file.suffix in _FOREIGN:
                found.foreign.append(file)
    if len(found.checkpoints) + len(found.bundles) == before:
        raise CheckpointError(f"{given} holds no checkpoint and no bundle; name the files or folders that do")


def erase_everywhere(
    paths: Sequence[Path], keys: Sequence[str | int], *, reason: str = "", requested_by: str = ""
) -> tuple[Found, list[Outcome]]:
    """Erase classes from every artifact named, in place and for good.

    Returns:
        what was found, and what became of each artifact.

    Raises:
        ClassNameError: an artifact named by itself never had the class, or would have none left.
        StorageError, BundleError, CheckpointError: an artifact or a ledger that is not whole; where something
            was announced already, the same command completes it.
    """
    found = find_artifacts([expanded(path) for path in paths])
    request = secrets.token_hex(8)
    groups: dict[Path, list[Path]] = {}
    for file in found.checkpoints:
        groups.setdefault(file.parent, []).append(file)
    with _locked(groups):
        outcomes = _erase_checkpoints(groups, found, keys, request, reason, requested_by) if groups else []
    outcomes += _erase_bundles(found, keys, reason, requested_by, is_dry=False)  # each takes its own lock
    with _locked([*groups, *found.bundles]):
        _sweep([*groups, *found.bundles], found)
    return found, outcomes


@contextlib.contextmanager
def _locked(folders: Iterable[Path]) -> Generator[None]:
    """Hold the locks of some folders; always in the same order, so that two processes never wait for each other."""
    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)):
            stack.enter_context(locked(folder / LOCK))
        yield


def _erase_checkpoints(
    groups: dict[Path, list[Path]],
    found: Found,
    keys: Sequence[str | int],
    request: str,
    reason: str,
    requested_by: str,
) -> list[Outcome]:
    from pfm.forgetting import files as forgetting
    from pfm.model.checkpoint import load_checkpoint

    for folder in groups:
        forgetting.finish(folder)
    outcomes: list[Outcome] = []
    wanted: dict[Path, dict[tuple[tuple[int, str], ...], list[Path]]] = {}  # folder -> classes -> files
    for folder, files in groups.items():
        for file in files:
            checkpoint = load_checkpoint(file)
            try:
                present, gone = checkpoint.classes.split_erased(keys, checkpoint.erased)
            except ClassNameError as error:
                if _is_named_by_folder(file, found):
                    outcomes.append(Outcome(file, "never had it"))
                    continue
                raise ClassNameError(f"{file}: {error}") from error
            if not present:
                assert gone
                outcomes.append(Outcome(file, "was erased before"))
                continue
            check_removal(checkpoint.classes, present)
            classes = tuple((checkpoint.classes.ids[p], checkpoint.classes.names[p]) for p in present)
            wanted.setdefault(folder, {}).setdefault(classes, []).append(file)
        records = ledger.read(folder / LEDGER)
        for file in files:
            ledger.require(folder / LEDGER, records, load_checkpoint(file).ledger_head, by=file.name)
    if all(outcome.what == "never had it" for outcome in outcomes) and not wanted and not found.bundles:
        raise ClassNameError(f"none of these files ever had a class {', '.join(map(str, keys))}")
    _erase_bundles(found, keys, reason, requested_by, is_dry=True)  # refuse before anything changes
    # one announcement a folder and set of classes; nearly always one in all
    for number in range(max((len(sets) for sets in wanted.values()), default=0)):
        due = [(folder, *list(sets.items())[number]) for folder, sets in wanted.items() if number < len(sets)]
        for folder, classes, files in due:
            forgetting.announce_in_place(
                folder, files, classes, request=request, reason=reason, requested_by=requested_by
            )
        for folder, _, files in due:
            forgetting.finish(folder)
            outcomes += [Outcome(file, "erased") for file in files]
    return outcomes


def _is_named_by_folder(file: Path, found: Found) -> bool:
    return any(folder in file.parents for folder in found.folders)


def _erase_bundles(
    found: Found, keys: Sequence[str | int], reason: str, requested_by: str, *, is_dry: bool
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for folder in found.bundles:
        bundle = Bundle.open(folder)
        try:
            present, _ = bundle.classes.split_erased(keys, (*bundle.stated.erased, *bundle.pending))
        except ClassNameError as error:
            if _is_named_by_folder(folder, found):
                outcomes.append(Outcome(folder, "never had it"))
                continue
            raise ClassNameError(f"{folder}: {error}") from error
        if present:
            check_removal(bundle.classes, present)
        if is_dry:
            continue
        if present:
            names = [bundle.classes.names[p] for p in present]
            bundle.erase(names, reason=reason, requested_by=requested_by)
        else:
            with locked(folder / LOCK):
                Bundle.open(folder).finish_pending()
        outcomes.append(Outcome(folder, "erased" if present or bundle.pending else "was erased before"))
    return outcomes


def _sweep(folders: Iterable[Path], found: Found) -> None:
    """Delete what killed processes left half written beside the artifacts; it may hold what was erased."""
    starts = (f".{LEDGER}.", *(f".{path.name[:40]}." for path in found.checkpoints))
    try:
        for folder in {*folders}:
            for part in folder.glob(".*.part"):
                if folder in found.bundles or part.name.startswith(starts):
                    part.unlink(missing_ok=True)
        for folder in found.folders:
            for part in folder.rglob(".*.part"):
                part.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot delete {error.filename}: {error.strerror}; delete it by hand") from error
