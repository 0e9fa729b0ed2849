"""Who may write into a folder: one lock for training and erasing, one run at a time, and nothing of what was erased.

    .lock          held by whoever writes files that hold classes, for as long as that takes
    .run.lock      held by a training run from its first check to its end; says which classes it trains
    ledger.jsonl   says what was erased (see `pfm.forgetting.ledger`)

All locks are the system's (`flock`): a process that dies lets go of them.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pfm.classes import ClassList
from pfm.errors import FolderInUseError, StorageError, TrainingError, explain
from pfm.locks import is_locked, locked, try_lock
from pfm.storage import write_whole

LOCK = ".lock"
RUN = ".run.lock"
_LOOKS = 10  # at what is held, before it is a run that holds it: some systems know no locks of those who only look
_LOOKING_S = 60.0  # longer than anybody looks who was not stopped
_PATIENCE_S = 10.0  # in which a run that has its folder says what it trains, which it does at once
LEDGER = "ledger.jsonl"
_OF_SAMPLES = ("erase-samples", "erase-samples-begin")  # actions; what was begun is done, or will be


@contextlib.contextmanager
def running(folder: Path, classes: ClassList) -> Iterator[None]:
    """A training run has the folder for itself while the block runs, and an erasure can see which classes it trains.

    Raises:
        TrainingError: one of them was erased from the folder.
        FolderInUseError: another run has it.
        StorageError: nothing can be written there.
    """
    path = folder / RUN
    check_not_erased(folder, classes.names)
    times_held, until = 0, time.monotonic() + _LOOKING_S
    while (file := try_lock(path)) is None:  # perhaps somebody only looks whether there is a run, however slowly
        times_held += is_locked(path)
        if times_held == _LOOKS or time.monotonic() > until:
            raise FolderInUseError(
                f"another run writes into {folder}; wait for its end, or choose another folder with --save_dir"
            )
        time.sleep(0.02)
    with file:
        try:
            _say_what_runs(file.fileno(), path, classes)
            check_not_erased(folder, classes.names)  # by who came before there was anything to see here
            yield
        finally:
            _leave(file, path)


def _leave(file: BinaryIO, path: Path) -> None:
    """Delete what a run had locked, while that is held: whoever waits for it looks whether it is still there.

    Not where an erasure is at work in the folder: what it has found there stays until it is done with it.
    """
    with contextlib.suppress(OSError, StorageError):
        lock = try_lock(path.with_name(LOCK))
        if lock is None:
            os.ftruncate(file.fileno(), 0)
            return
        with lock:
            path.unlink()
            path.with_name(LOCK).unlink()


def _say_what_runs(descriptor: int, path: Path, classes: ClassList) -> None:
    """Into the file of its lock."""
    try:
        os.ftruncate(descriptor, 0)
        write_whole(descriptor, json.dumps({"pid": os.getpid(), "ids": classes.ids, "names": classes.names}).encode())
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {explain(error)}; free some space, or choose another folder"
        ) from error


def run_in(folder: Path) -> ClassList | None:
    """The classes that a run trains in a folder at this moment; None where there is no run."""
    path = folder / RUN
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        try:
            if not path.is_file() or not is_locked(path):  # whoever held it is dead
                return None
            stated = json.loads(path.read_bytes())
            return ClassList(tuple(stated["ids"]), tuple(stated["names"]))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            time.sleep(0.01)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {explain(error)}") from error
    raise StorageError(f"{path} is held and does not say by which run; end that process, then try again")


@contextlib.contextmanager
def writing(folder: Path, names: Iterable[str]) -> Iterator[None]:
    """Files that hold these classes may be written into the folder while the block runs: no erasure is going on.

    Raises:
        TrainingError: one of the classes was erased from the folder; the block has not begun.
    """
    with locked(folder / LOCK):
        check_not_erased(folder, names)
        yield


def check_not_erased(folder: Path, names: Iterable[str]) -> None:
    """Refuse to write classes into a folder that they were erased from.

    Raises:
        TrainingError: which of them, and what to do.
        StorageError: the folder's ledger cannot be read.
    """
    found, samples = erased_from(folder)
    gone = [name for name in names if name in found]
    if gone:
        raise TrainingError(
            f"{', '.join(map(repr, gone))} was erased from {folder} ({LEDGER}, {found[gone[0]]}), and this run would "
            "bring it back; nothing was written. Train without its data, or in another folder with --save_dir"
        )
    if samples:
        raise TrainingError(
            f"groups or samples were erased from {folder} ({LEDGER}, {samples}), which does not say whose they were: "
            "this run cannot tell whether it would bring them back; nothing was written. Train on data without them "
            "in another folder, with --save_dir"
        )


def erased_from(folder: Path) -> tuple[dict[str, str], str]:
    """Name of each class that was erased from the files of a folder, and when; and when groups or samples last were.

    Copies made without them do not count; "" where no samples were.

    Raises:
        StorageError: the ledger cannot be read.
    """
    path = folder / LEDGER
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error
    found: dict[str, str] = {}
    samples = ""
    for number, line in enumerate(lines, start=1):
        try:
            record: Any = json.loads(line)
            if record["action"] not in ("erase", "erase-begin", *_OF_SAMPLES):
                continue
            entries = record.get("files", [record])
            if not entries or any(entry.get("source", entry["file"]) == entry["file"] for entry in entries):
                found |= {item["name"]: record["time"] for item in record["classes"]}
                samples = record["time"] if record["action"] in _OF_SAMPLES else samples
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StorageError(f"{path}, line {number}: this is not a record of an erasure; it was changed") from error
    return found, samples
