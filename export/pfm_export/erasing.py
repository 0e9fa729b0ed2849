"""One erasure over everything that some paths name: checkpoints, bundles and banks in any depth, and running runs.

The order is what makes it safe to kill at any moment:

1. the walk finds what there is; every folder in which something may change is locked, and the walk is made again;
2. what an earlier erasure announced and did not finish is finished;
3. everything is opened, and whatever speaks against the erasure is said before anything changes;
4. each folder's ledger says what is about to be erased from which files;
5. the files change one by one, each the old one or the new one; then the ledgers say what was done;
6. bundles follow, each ledger, bank, manifest; half-written files of dead processes are deleted.

Killed before 4, nothing has changed. Killed later, the next erasure there finishes what was announced, and the same
command does the rest.
"""

import contextlib
import dataclasses
import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfm.classes import ClassKeys, ClassList, check_removal, class_keys
from pfm.errors import BundleError, ClassNameError, ConfigError, StorageError, explain
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import FolderKind, HoldingKind, Request, Verdict
from pfm.forgetting.artifacts.walk import Seen, Walk
from pfm.forgetting.ledger import LEDGER, LOCK, Record
from pfm.locks import locked, try_lock
from pfm_export.serving.artifacts import look_at
from pfm_export.staying import still_holding
from pfm_export.survey import Held, Survey, given_paths, opened

ERASED, BEFORE, NEVER, CENTRED = "erased", "was erased before", "never had it", "was erased before, and is centred now"
_ATTEMPTS = 20  # to lock a tree that others write into


@dataclass(frozen=True)
class Outcome:
    """What became of one artifact.

    Attributes:
        what: "erased", "was erased before", or "never had it".
        is_kept: it is a file or bundle that a certificate can speak of.
        is_run: it is a training run that is going on, which stops by itself.
    """

    path: Path
    what: str
    is_kept: bool
    is_run: bool


def erase_everywhere(
    paths: Sequence[Path],
    keys: ClassKeys,
    *,
    reason: str = "",
    requested_by: str = "",
    allow_unknown: bool = False,
    centre_prompts: bool = False,
) -> tuple[Survey, list[Outcome]]:
    """Erase classes from every artifact that some paths name or hold, in place and for good.

    Args:
        centre_prompts: move the prompts that are left to mean zero, also of what the classes were erased from before.
        allow_unknown: go on where a file has a further name on its disk that the walk did not find.

    Returns:
        what was found, and what became of each artifact, bundles last.

    Raises:
        ClassNameError: nothing, or an artifact named by itself, never had a class, or would have none left.
        ConfigError: nothing that holds these classes has prompts that could be centred.
        StorageError, BundleError, CheckpointError: an artifact or a ledger that is not whole, or a file that goes on
            under another name; where something was announced already, the same command completes it.
    """
    given, wanted = given_paths(paths), class_keys(keys)
    request = _Asked(wanted, allow_unknown, Request(reason, requested_by, centre_prompts))
    also: list[Path] = []
    for _ in range(_ATTEMPTS):
        folders = look_at(given, also).folders()
        with _locked(folders):
            seen = look_at(given, also)  # as it is now: a run or another erasure may have written since
            if not set(seen.folders()) <= set(folders):
                continue
            completed = _finish_announced(seen, folders)
            found = opened(seen)
            if more := [path for path in found.elsewhere if path.is_file()]:
                also += more  # whose folders are to be locked too
                continue
            return found, _erase(found, completed, request)
    raise StorageError(f"{given[0]} does not stand still: others write new files into it; stop them, and try again")


@dataclass(frozen=True)
class _Asked:
    keys: tuple[str | int, ...]
    allow_unknown: bool
    request: Request


@contextlib.contextmanager
def _locked(folders: Iterable[Path]) -> Generator[None]:
    """Hold the locks of some folders; always in the same order, so that two processes never wait for each other."""
    with contextlib.ExitStack() as stack:
        for folder in sorted(set(folders)):
            stack.enter_context(locked(folder / LOCK))
        yield


def _finish_announced(seen: Walk, folders: Sequence[Path]) -> set[Path]:
    """Complete what was begun; the folders that are artifacts and had to be completed."""
    for folder in folders:
        if any(record.get("action") == "erase-begin" for record in ledger.read(folder / LEDGER)):
            from pfm.forgetting.files import finish  # which needs torch

            finish(folder)
    completed: set[Path] = set()
    for entry in seen.holding():
        if isinstance(entry.kind, FolderKind):
            try:
                if entry.kind.finish(entry.path):
                    completed.add(entry.path)
            except BundleError:  # one that was not named by itself is said not to have been looked into
                if entry.path in seen.named:
                    raise
    return completed


def _erase(found: Survey, completed: set[Path], asked: _Asked) -> list[Outcome]:
    """With every folder locked."""
    wanted, outcomes = _plan(found, asked)
    _check_records(found)
    _check_shared(found.walk)
    check_names(found, [held for held, _ in wanted], allow_unknown=asked.allow_unknown)
    _check_elsewhere(found, asked)
    _check_traces(found, wanted, asked)
    by_folder: dict[Path, dict[tuple[tuple[int, str], ...], list[Held]]] = {}
    for held, classes in wanted:
        if isinstance(held.kind, HoldingKind):
            by_folder.setdefault(held.path.parent, {}).setdefault(classes, []).append(held)
    looked = _looked(found, [*by_folder, *(held.path for held, _ in wanted if isinstance(held.kind, FolderKind))])
    _rewrite_files(by_folder, looked, asked.request)
    for held, classes in wanted:
        if isinstance(held.kind, FolderKind):
            names = [name for _, name in classes]
            held.kind.erase(held.path, names, asked.request, looked.get(held.path, {}))
        outcomes.append(_outcome(held, ERASED if classes else CENTRED))
    found.others += sweep(found.walk.parts)
    folders_last = sorted(outcomes, key=lambda outcome: (outcome.path in found.walk.kept, outcome.path))
    return [_completed(outcome, completed) for outcome in folders_last]


def _outcome(held: Held, what: str) -> Outcome:
    is_run = isinstance(held.kind, HoldingKind) and held.kind.stops_by_itself
    return Outcome(held.path, what, held.kind.is_kept, is_run)


def _completed(outcome: Outcome, completed: set[Path]) -> Outcome:
    is_done = outcome.what == BEFORE and outcome.path in completed
    return dataclasses.replace(outcome, what=ERASED) if is_done else outcome


def _plan(found: Survey, asked: _Asked) -> tuple[list[tuple[Held, tuple[tuple[int, str], ...]]], list[Outcome]]:
    """What has to go from which artifact, number and name; and the outcome for those where nothing has to.

    Raises:
        ClassNameError, ConfigError: see `erase_everywhere`.
    """
    keys = asked.keys
    if not keys:
        raise ClassNameError("no class is named; name at least one")
    _check_numbers(found, keys)
    wanted: list[tuple[Held, tuple[tuple[int, str], ...]]] = []
    outcomes: list[Outcome] = []
    for held in found.held:
        own = [key for key in keys if held.ever.knows(key)]
        if held.path in found.walk.named and len(own) < len(keys):
            try:
                held.ever.positions(keys)  # says which of them it never had, and what is close to it
            except ClassNameError as error:
                raise ClassNameError(f"{held.path}: {error}") from error
        classes = held.holding.classes
        present, _ = classes.split_erased(own, held.holding.erased)
        if present:
            if held.kind.is_kept:
                check_removal(classes, present)
            wanted.append((held, tuple((classes.ids[p], classes.names[p]) for p in present)))
        elif own and asked.request.centre_prompts and held.holding.prompts_centred is False:
            wanted.append((held, ()))  # nothing goes any more; what is left is centred
        else:
            outcomes.append(_outcome(held, BEFORE if own else NEVER))
    unknown = [key for key in keys if not any(held.ever.knows(key) for held in found.held)]
    if unknown:
        known = ClassList.from_names(list(dict.fromkeys(name for held in found.held for name in held.ever.names)))
        try:
            known.position(unknown[0])
        except ClassNameError as error:
            raise ClassNameError(f"none of these files ever had it: {error}") from error
        raise ClassNameError(f"none of these files ever had a class {unknown[0]!r}")
    _check_prompts(found, asked)
    return wanted, outcomes


def _check_prompts(found: Survey, asked: _Asked) -> None:
    """Refuse to centre where there is no prompt.

    Raises:
        ConfigError: so it is.
    """
    concerned = [held for held in found.held if any(held.ever.knows(key) for key in asked.keys)]
    if asked.request.centre_prompts and all(held.holding.prompts_centred is None for held in concerned):
        raise ConfigError("--centre_prompts: nothing that holds these classes has prompts; leave it out")


def _check_numbers(found: Survey, keys: tuple[str | int, ...]) -> None:
    """Refuse a number that is not the same class in every artifact.

    Raises:
        ClassNameError: which classes it is.
    """
    for number in (key for key in keys if isinstance(key, int)):
        names = {
            held.ever.names[held.ever.ids.index(number)]: held.path
            for held in found.held
            if held.numbers_classes and number in held.ever.ids
        }
        if len(names) > 1:
            each = "; ".join(f"{name!r} in {path}" for name, path in names.items())
            raise ClassNameError(f"number {number} is not the same class everywhere ({each}); give its name")


def _check_records(found: Survey) -> None:
    """Refuse a file whose last erasure is in no ledger: lines were removed. A copy may be recorded elsewhere.

    Raises:
        StorageError: which.
    """
    places = {held.path.parent / LEDGER: ledger.read(held.path.parent / LEDGER) for held in found.held}
    known = {record["hash"] for records in places.values() for record in records}
    for held in found.held:
        if held.holding.ledger_head not in known:
            place = held.path.parent / LEDGER
            ledger.require(place, places[place], held.holding.ledger_head, by=held.path.name)


def _check_shared(found: Walk) -> None:
    """Refuse folders that share files, as links into a store do: rewriting one breaks the other.

    Raises:
        StorageError: which two.
    """
    owners: dict[Path, Path] = {}
    for folder, files in found.kept.items():
        for file in files:
            if file == Path(os.path.realpath(folder / LEDGER)):
                continue  # each gets a ledger of its own
            other = owners.setdefault(file, folder)
            if other != folder:
                raise StorageError(
                    f"{other} and {folder} are links to the same {file}; erase from one of them, and the other can "
                    "no longer be served: delete it, then try again"
                )


def check_names(found: Survey, wanted: Iterable[Held], *, allow_unknown: bool) -> None:
    """Refuse to erase from a file that goes on under a name which the walk did not find.

    Raises:
        StorageError: which, and what to do.
    """
    for held in wanted:
        count = found.walk.other_names(found.walk.seen[held.path])
        if count:
            found.linked.append(held.path)
    if found.linked and not allow_unknown:
        raise StorageError(
            f"{found.linked[0]} has another name on its disk (a hard link) outside of what you named, which would go "
            "on holding what is to go; name that too, or delete it; --allow_unknown erases here all the same"
        )


def _check_traces(found: Survey, wanted: Sequence[tuple[Held, tuple[tuple[int, str], ...]]], request: _Asked) -> None:
    """Refuse to erase a class of which a file that would stay as it is holds a row.

    Raises:
        StorageError: which file, and what to do.
    """
    found.traces = still_holding(found, wanted)
    if found.traces and not request.allow_unknown:
        first, more = found.traces[0], len(found.traces) - 1
        raise StorageError(
            f"{first.path}{f' and {more} more' * bool(more)} would go on holding the class: {first.how}; delete it or "
            "move it away, and try again; --allow_unknown erases from the rest all the same"
        )


def _check_elsewhere(found: Survey, request: _Asked) -> None:
    """Refuse to erase a class of which a file that cannot be erased from holds something, such as its start's key.

    Raises:
        StorageError: which file, and why.
    """
    for held in found.held:
        for path in held.holding.elsewhere:
            why = _why_out_of_reach(path, found)
            if why and not request.allow_unknown and any(held.ever.knows(key) for key in request.keys):
                raise StorageError(
                    f"the prompts of {held.path} started from keys in {path}, {why}, so that the class's key would "
                    "outlast the erasure; bring the file back to that place as it was, or, where it was destroyed, "
                    "give --allow_unknown"
                )


def _why_out_of_reach(path: Path, found: Survey) -> str:
    """Why a file that an artifact says it has something in cannot be erased from; "" where it can."""
    if not path.is_file():
        return "which is not there"
    real = Path(os.path.realpath(path))
    seen = next((seen for seen in found.others if seen.path == real), found.walk.seen.get(real))
    if seen is not None and seen.verdict is Verdict.CLOSED:
        return f"which was not looked into ({seen.how})"
    if seen is None or not isinstance(seen.kind, HoldingKind) or not seen.kind.is_pointed_to:
        return "which is not a file of keys"
    return ""


def _rewrite_files(
    by_folder: dict[Path, dict[tuple[tuple[int, str], ...], list[Held]]], looked: dict[Path, Record], request: Request
) -> None:
    """Announce all, then do it."""
    if not by_folder:
        return
    from pfm.forgetting.files import announce_in_place, finish

    for folder, sets in by_folder.items():
        for classes, files in sets.items():
            announce_in_place(
                folder,
                [(held.kind.name, held.path) for held in files],
                classes,
                looked=looked.get(folder),
                request=request,
                is_exact=all(held.holding.is_exact for held in files),
            )
    for folder in by_folder:
        finish(folder)


def _looked(found: Survey, folders: Sequence[Path]) -> dict[Path, Record]:
    """For each ledger, what was seen of the other files: how many are clean and why, and each not looked into.

    A file goes to the ledger of the innermost folder around it, or else to the first.
    """
    result: dict[Path, Record] = {}
    for seen in found.others:
        around = [folder for folder in folders if folder in seen.path.parents]
        if not folders:
            continue
        place = max(around, key=lambda folder: len(folder.parts)) if around else folders[0]
        entry = result.setdefault(place, {"clean": {}, "not_looked_into": {}})
        if seen.verdict is Verdict.CLEAN:
            entry["clean"][seen.how] = entry["clean"].get(seen.how, 0) + 1
        else:
            name = seen.path.relative_to(place) if around else seen.path
            entry["not_looked_into"][name.as_posix()] = seen.how
    return result


def sweep(parts: Iterable[Path]) -> list[Seen]:
    """Delete what killed processes left half written, which may hold anything; what is being written stays.

    Returns:
        those that stay.
    """
    left: list[Seen] = []
    for part in parts:
        try:
            if not part.exists():
                continue
            file = try_lock(part)
            if file is None:
                left.append(Seen(part, None, Verdict.CLOSED, "another process is writing it"))
                continue
            with file:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete {part}: {explain(error)}; delete it by hand") from error
    return left
