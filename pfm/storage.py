"""Files that are either the old one or the new one, never half of each.

Every artifact is written to a temporary file beside its target, flushed to the disk, then renamed.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from pfm.errors import StorageError, explain
from pfm.locks import lock_file

JsonValue: TypeAlias = "str | int | float | bool | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
Json: TypeAlias = Mapping[str, JsonValue]  # a document that is written
LARGEST_JSON = 64 << 20  # bytes of a document that is read; ours are a few kilobytes

# what a system says of a place that takes no more, or is not to be written to
CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

_setting_umask = threading.Lock()


@contextlib.contextmanager
def replacing(
    path: Path, *, follow: bool = True, like: Path | None = None, is_private: bool = False
) -> Iterator[BinaryIO]:
    """Open a binary file that takes the place of `path` only when the block ends without an error.

    Who may read it stays as it was: the mode is that of the file that stood there.

    Args:
        follow: where `path` is a link, replace what it names; otherwise that stays as it is, and the link goes.
        like: where none stood there, the file whose mode the new one gets; None leaves it to the umask.
        is_private: nobody but its owner may read it (mode 600).

    Raises:
        StorageError: the folder cannot be made, or the disk is full, read-only or not permitted.
            Whatever stood at `path` before is unchanged.
    """
    temporary = None
    try:
        if follow and path.is_symlink():
            path = Path(os.path.realpath(path))
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(None, "a folder of that name exists")
        opened, temporary = unfinished(path)
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "nt":  # where an open file cannot be renamed; elsewhere it stays locked until it is in place
                file.close()
            os.chmod(temporary, 0o600 if is_private else _mode(path) or (like and _mode(like)) or 0o666 & ~_umask())
            os.replace(temporary, path)
            temporary = None
        with contextlib.suppress(OSError):  # some network file systems refuse; the new file stands by now
            _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {explain(error)}; nothing was changed there. "
            "Free some space or choose another place, then try again"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def unfinished(path: Path) -> tuple[BinaryIO, str]:
    """A new file in the same folder, locked, so that nobody takes it for one that a dead process left; and its name.

    Raises:
        OSError: there is no room, or no right.
    """
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", suffix=".part", dir=path.parent)
        file = os.fdopen(descriptor, "wb")
        try:
            is_ours = lock_file(file, wait=False)
        except OSError:  # where there are no locks, nobody can tell that it is being written
            is_ours = True
        if is_ours and os.path.exists(temporary):
            return file, temporary
        file.close()  # somebody who sweeps was quicker than the lock, and deletes it


def _mode(path: Path) -> int | None:
    """Who may do what with a file; None where there is none."""
    try:
        return stat.S_IMODE(path.stat().st_mode) & 0o777
    except FileNotFoundError:
        return None


def _umask() -> int:
    """The umask, which cannot be read but by setting it, for all threads: two at a time would leave it at 0."""
    with contextlib.suppress(OSError):  # Linux shows it
        shown = re.search(rb"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_bytes(), re.MULTILINE)
        if shown:
            return int(shown[1], 8)
    with _setting_umask:
        current = os.umask(0)
        os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_bytes(
    path: Path,
    content: bytes | memoryview,
    *,
    follow: bool = True,
    like: Path | None = None,
    is_private: bool = False,
) -> None:
    """Write a file at once; `follow`, `like` and `is_private` as in `replacing`."""
    with replacing(path, follow=follow, like=like, is_private=is_private) as file:
        file.write(content)


def write_whole(descriptor: int, content: bytes) -> None:
    """Write to an open file past any buffer, which would be written again when the file is closed, and fail again.

    Raises:
        OSError: not all of it could be written.
    """
    while content:
        content = content[os.write(descriptor, content) :]


def cut_half_a_line(file: FileIO) -> None:
    """Take away what stands behind the last end of a line of an open file, if that is an ordinary one.

    Args:
        file: unbuffered, open for reading and writing.

    Raises:
        OSError: it cannot be read or cut.
    """
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return
    end = size = file.seek(0, os.SEEK_END)
    while end:
        start = max(end - (1 << 16), 0)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        file.truncate(end)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8; a name that is no valid text, as a file's may be, has question marks in it."""
    write_bytes(path, content.encode(errors="replace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON that any parser reads: a number that is not one becomes null, half a character JSON's own escape."""
    text = json.dumps(finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_compact_json(path: Path, content: Mapping[str, Any], digits: int = 6) -> None:
    """The same for results of many numbers: a line for each entry of the first two levels, numbers rounded.

    Args:
        digits: significant ones, of numbers that are not whole.
    """

    def text(value: Any) -> str:
        return json.dumps(rounded(finite(value), digits), ensure_ascii=False, allow_nan=False, separators=(",", ":"))

    def entry(value: Any) -> str:
        inner = (f"{text(str(key))}: {text(item)}" for key, item in value.items()) if isinstance(value, Mapping) else ()
        lines = ",\n    ".join(inner)
        return f"{{\n    {lines}\n  }}" if lines else text(value)

    body = ",\n  ".join(f"{text(key)}: {entry(value)}" for key, value in content.items())
    write_text(path, f"{{\n  {body}\n}}\n")


def rounded(value: Any, digits: int) -> Any:
    """The same with so many significant digits in every float."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_ordinary(path: Path, largest: int = LARGEST_JSON) -> bytes:
    """The bytes of a file that may be anybody's: of a bounded size, and no pipe or device, which would never end.

    Raises:
        StorageError: it is not one, or cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"cannot read {path}: it is not an ordinary file")
        if status.st_size > largest:
            raise StorageError(f"cannot read {path}: it has {status.st_size} bytes, and {largest} at most are expected")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error


def parse_json(content: bytes) -> Any:
    """A document that may be anybody's: standard JSON of a bounded size and depth, every key once.

    Raises:
        ValueError: it is not; in a few words.
    """
    if len(content) > LARGEST_JSON:
        raise ValueError(f"{len(content) >> 20} MiB of JSON; {LARGEST_JSON >> 20} are read")
    try:
        return json.loads(content, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ in which of the two they take
        raise ValueError("a key occurs twice")
    return found


def make_folder(path: Path) -> Path:
    """Make `path` and check now, before any long work, that files can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(path, error) from error
    check_folder(path)
    return path


def check_folder(path: Path) -> None:
    """Refuse a folder that could not be written into, before any long work; none is made.

    Raises:
        StorageError: it cannot be made, or nothing can be written into it.
    """
    try:
        there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise _no_folder(path, error) from error


def check_file(path: Path) -> None:
    """Refuse a file that could not be written, before any long work; none is made.

    Raises:
        StorageError: it is a folder, or its folder cannot be made or written into.
    """
    real = Path(os.path.realpath(path))
    if real.is_dir():
        raise StorageError(f"cannot write {path}: a folder of that name exists; name a file")
    check_folder(real.parent)


def _no_folder(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write into {path}: {explain(error)}; choose a folder that you may write to")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_bytes(content: bytes | memoryview) -> str:
    return hashlib.sha256(content).hexdigest()
