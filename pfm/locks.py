"""Locks on files, which end with whoever holds them."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from pfm.errors import StorageError, explain


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process, and one thread of it, at a time; `path` is a file that is there for nothing else.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    file = _locked(path, wait=True)
    assert file is not None
    with file:  # let go of when the file is closed, also by a process that dies
        yield


def try_lock(path: Path) -> BinaryIO | None:
    """The file `path`, open and locked until it is closed; None where somebody else has it.

    Raises:
        StorageError: the file cannot be made or locked.
    """
    return _locked(path, wait=False)


def is_locked(path: Path) -> bool:
    """Whether somebody has an ordinary file locked; where nobody has, not even for the moment that it takes to look.

    Raises:
        StorageError: that cannot be seen.
    """
    try:
        with path.open("rb") as file:
            return not lock_file(file, wait=False, shared=True)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error


def _locked(path: Path, *, wait: bool) -> BinaryIO | None:
    while True:
        try:
            if path.exists() and not path.is_file():
                raise OSError(None, "it is not a regular file")
            file = path.open("a+b")
        except OSError as error:
            raise StorageError(
                f"cannot write {path}: {explain(error)}; choose a folder that you may write to"
            ) from error
        try:
            if not lock_file(file, wait=wait):
                file.close()
                return None
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # whoever had it may have deleted it
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            raise StorageError(
                f"{path} cannot be locked: {explain(error)}; choose a folder on a file system with locks"
            ) from error
        file.close()


def lock_file(file: BinaryIO, *, wait: bool, shared: bool = False) -> bool:
    """Lock an open file; whether that was possible, where nobody waits.

    Args:
        shared: with others who ask for no more than that, where the system knows such locks.
    """
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        if wait:
            raise
        return False
    return True
