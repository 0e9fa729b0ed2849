"""Rows of a table of facts, for people."""

import os
from collections.abc import Sequence
from pathlib import Path


def rows(title: str, values: Sequence[str]) -> list[str]:
    """A title, and values under each other."""
    return [row(title if number == 0 else "", value) for number, value in enumerate(values)]


def row(title: str, value: str) -> str:
    """A title and a value."""
    return f"  {title:<10}  {value}"


def in_units(size_bytes: int) -> str:
    """A size in KiB or MiB."""
    return f"{size_bytes / 2**20:.1f} MiB" if size_bytes >= 2**20 else f"{size_bytes / 2**10:.1f} KiB"


def quoted(name: str) -> str:
    """A name, in quotes where blanks at its ends would not be seen."""
    return repr(name) if name != name.strip() or not name else name


def below(top: str, path: str) -> str:
    """A path as it is called in the folder; whole where a link led out of it."""
    return os.path.relpath(path, top) if Path(path).is_relative_to(top) else path
