"""Before something that cannot be undone: what would be done to which files, and a question to whoever sits there."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pfm.errors import ConfigError

if TYPE_CHECKING:
    from pfm.forgetting.artifacts.walk import Seen

MOST = 20  # files that are clean for one reason in one folder, before the rest is counted


def ask(names: Sequence[str], files: Sequence[str], closed: "Sequence[Seen]", *, yes: bool) -> None:
    """Print what is about to be erased for good, and ask where there is a terminal to ask.

    Args:
        files: that change, a line each.
        closed: files that are not looked into.
        yes: it was agreed to on the command line.

    Raises:
        ConfigError: the answer was no.
    """
    click.echo(f"to be erased for good: {', '.join(map(repr, names))}")
    for line in files or ["nothing: none of the artifacts has it any more"]:
        click.echo(f"  from  {line}")
    if closed:
        click.echo(f"  not looked into: {len(closed)} files, listed below")
    if files and not yes and sys.stdin.isatty() and not click.confirm("Erase? This cannot be undone"):
        raise ConfigError("nothing was erased")


def lines_of(seen: "Sequence[Seen]", most: int | None = MOST) -> Iterator[str]:
    """A line a file with the reason; of many in one folder with one reason, the first few and a count.

    Args:
        most: None lists all.
    """
    groups: dict[tuple[Path, str], list[Path]] = {}
    for entry in seen:
        groups.setdefault((entry.path.parent, entry.how), []).append(entry.path)
    for (folder, how), files in groups.items():
        shown = files if most is None or len(files) <= most else files[: most - 1]
        yield from (f"{file}: {how}" for file in shown)
        if len(shown) < len(files):
            yield f"{folder}: {len(files) - len(shown)} more of them: {how}"
