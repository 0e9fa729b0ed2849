"""One walk over everything that some paths name: every file in any depth, links followed to what they name.

The walk finds and tells apart; it opens nothing and changes nothing. A file is known by its real place, so that
whatever leads to it, it is dealt with once, and where it is.
"""

import contextlib
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.errors import CheckpointError, StorageError, explain
from pfm.forgetting.artifacts import ARTIFACT_KINDS, FOLDER_KINDS
from pfm.forgetting.artifacts.kind import ArtifactKind, FolderKind, HoldingKind, Look, Verdict
from pfm.forgetting.artifacts.unknown import why_not
from pfm.registry import load_plugins

# of `pfm.storage.replacing`: what a process that was killed left half written
PART = re.compile(r"\..+\.[A-Za-z0-9_]{8}\.part", re.DOTALL)


@dataclass(frozen=True)
class Seen:
    """A file, or a folder that is one artifact.

    Attributes:
        path: its real place.
        kind: None where nothing recognised it.
        how: it is known to be clean, or why it was not looked into; "" of what holds classes.
    """

    path: Path
    kind: ArtifactKind | FolderKind | None
    verdict: Verdict
    how: str = ""


@dataclass
class Walk:
    """What some paths name.

    Attributes:
        seen: by real path, in order; a folder that is an artifact is one entry, its members are not listed.
        named: those that were named by themselves and not by a folder.
        parts: half-written files.
        under: what each path named leads to.
        names: how many names of each file (device and number) the walk found.
        kept: files of folders that are artifacts.
        led_to: files that no path named leads to, and an artifact does.
    """

    seen: dict[Path, Seen] = field(default_factory=dict[Path, Seen])
    named: set[Path] = field(default_factory=set[Path])
    under: dict[Path, set[Path]] = field(default_factory=dict[Path, set[Path]])
    parts: list[Path] = field(default_factory=list[Path])
    names: dict[tuple[int, int], set[Path]] = field(default_factory=dict[tuple[int, int], set[Path]])
    kept: dict[Path, tuple[Path, ...]] = field(default_factory=dict[Path, tuple[Path, ...]])
    led_to: set[Path] = field(default_factory=set[Path])
    waiting: dict[Path, None] = field(default_factory=dict[Path, None])  # files that were found, not yet looked at

    def holding(self) -> list[Seen]:
        """What may hold classes."""
        return [seen for seen in self.seen.values() if seen.verdict is Verdict.HOLDS]

    def folders(self) -> list[Path]:
        """Every folder in which something may change."""
        places = {seen.path if isinstance(seen.kind, FolderKind) else seen.path.parent for seen in self.holding()}
        return sorted(places | {part.parent for part in self.parts})

    def other_names(self, seen: Seen) -> int:
        """How many further names the files of an artifact have on their disks, which the walk did not find."""
        missing = 0
        for file in self.kept.get(seen.path, (seen.path,)):
            if file.exists():
                status = file.stat()
                missing += max(0, status.st_nlink - len(self.names.get((status.st_dev, status.st_ino), {file})))
        return missing


def walk(paths: Sequence[Path], also: Sequence[Path] = ()) -> Walk:
    """Look at what each path is and at everything in it.

    Args:
        also: further files, which nobody named.

    Raises:
        CheckpointError: nothing is there.
        StorageError: something cannot be read, or a link leads to a folder that the link itself is in.
    """
    load_plugins()
    found = Walk()
    for given in paths:
        place = Path(os.path.realpath(given))
        if place.is_dir():
            found.under[given] = _Walker(found, place).look_into(place)
            if place in found.seen:
                found.named.add(place)
        elif place.is_file():
            _note(place, place, found)
            found.under[given] = {place}
            found.named.add(place)
        else:
            raise CheckpointError(f"there is no checkpoint, bundle or folder {given}")
    for file in also:
        real = Path(os.path.realpath(file))
        if real not in found.waiting:
            found.led_to.add(real)
            _note(file, real, found)
    members = {member for files in found.kept.values() for member in files}
    for file in found.waiting:  # now that it is known what belongs together, wherever it is
        if PART.fullmatch(file.name) and file not in found.led_to:
            found.parts.append(file)
        elif file not in members:
            seen = _told(file)
            if seen is not None:
                found.seen[file] = _left_alone(seen) if file in found.led_to else seen
    found.seen = dict(sorted(found.seen.items()))
    return found


class _Walker:
    """Goes through one named folder; folders are visited once, by their real place."""

    def __init__(self, found: Walk, top: Path) -> None:
        self.found = found
        self.top = top
        self.visited: set[Path] = set()

    def look_into(self, top: Path) -> set[Path]:
        """Note everything in a folder; the real places it leads to."""
        waiting, files = [top], set[Path]()
        while waiting:
            folder = waiting.pop()
            if folder in self.visited:
                continue
            self.visited.add(folder)
            self._note_folder(folder)
            for entry in _entries(folder):
                real = Path(os.path.realpath(entry))
                if _is_dir(real):
                    if not entry.is_symlink() or real not in (self.top, *self.top.parents):
                        waiting.append(real)
                    elif real != self.top:
                        self._close(entry, f"a link to {real}, which the folder named is in; name that")
                elif not os.path.lexists(entry):
                    continue  # deleted since the folder was read, as a run does
                elif not real.exists():
                    self._close(entry, "a link that leads nowhere")
                elif not real.is_file():
                    self._close(entry, "a pipe, socket or device")
                else:
                    _note(entry, real, self.found)
                    files.add(real)
        return self.visited | files

    def _note_folder(self, folder: Path) -> None:
        """Note a folder that is an artifact, and which files belong to it."""
        try:
            for kind in FOLDER_KINDS:
                if folder not in self.found.seen and kind.recognises(folder):
                    self.found.seen[folder] = Seen(folder, kind, Verdict.HOLDS)
                    self.found.kept[folder] = tuple(Path(os.path.realpath(member)) for member in kind.members(folder))
        except OSError as error:
            raise _closed(folder, error) from error

    def _close(self, path: Path, why: str) -> None:
        self.found.seen.setdefault(path, Seen(path, None, Verdict.CLOSED, why))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir(), reverse=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _closed(folder, error) from error


def _is_dir(real: Path) -> bool:
    try:
        return real.is_dir()
    except OSError as error:
        raise _closed(real, error) from error


def _closed(folder: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot look into {folder}: {explain(error)}; make it readable, or take it away")


def _note(entry: Path, real: Path, found: Walk) -> None:
    """Note a file under its real place, and count its names; a symbolic link is not one."""
    with contextlib.suppress(FileNotFoundError):  # deleted since the folder was read
        if not stat.S_ISLNK(entry.lstat().st_mode):
            status = real.stat()
            found.names.setdefault((status.st_dev, status.st_ino), set()).add(real)
        found.waiting.setdefault(real)


def _left_alone(seen: Seen) -> Seen:
    """What an artifact led to, whose word may be anybody's: nothing but what is there to be pointed to is touched."""
    if isinstance(seen.kind, HoldingKind) and seen.kind.is_pointed_to:
        return seen
    return Seen(seen.path, None, Verdict.CLOSED, "an artifact says that keys of its classes are in it, and it has none")


def _told(path: Path) -> Seen | None:
    """What a file is; None where it was deleted since it was found."""
    try:
        return tell(path)
    except StorageError:
        if path.exists():
            raise
        return None


def tell(path: Path) -> Seen:
    """What a file is, by what is in it."""
    look = Look(path)
    for kind in ARTIFACT_KINDS:
        if kind.recognises(look):
            return Seen(path, kind, kind.verdict, "" if isinstance(kind, HoldingKind) else kind.how(look))
    return Seen(path, None, Verdict.CLOSED, why_not(look))
