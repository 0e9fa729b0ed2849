"""What lies in a folder."""

import errno
import os
from pathlib import Path


def full_disk(*_: object, **__: object) -> None:
    """In place of what writes."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones included."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())
