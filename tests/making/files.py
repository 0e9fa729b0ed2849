"""What lies in a folder."""

from pathlib import Path


def files(folder: Path) -> list[Path]:
    """Every file below a folder, hidden ones included."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())
