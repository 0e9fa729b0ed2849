"""What a folder of files holds: which splits, which classes, which files; by rules, and nothing is guessed.

The split is the top folder where that is called train, val or test (or another word of `SPLIT_NAMES`, in any capitals);
the class is the next folder; what is deeper is part of the class. Names are taken as they stand, links are followed,
hidden entries and what systems leave behind are skipped, and whatever else is not used is named.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.data.dicom import ending_of
from pfm.data.readers.roles import SPLIT_NAMES, role_of
from pfm.errors import DataError, explain

_SYSTEM = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"}


@dataclass(frozen=True, kw_only=True)
class FoundFile:
    """A file of a kind that is read.

    Attributes:
        path: where it is.
        name: its path relative to the data set's folder, with `/`.
        role: of its split; "" where it is beside the splits.
        folders: between the split's folder, or the data set's, and the file.
    """

    path: Path
    name: str
    role: str
    folders: tuple[str, ...]


@dataclass
class ClassFolder:
    """What a class's folder of one split holds that is not read.

    Attributes:
        count: files that are read.
        others: endings of the other files, with their numbers.
        first: one of the others.
    """

    count: int = 0
    others: Counter[str] = field(default_factory=Counter)
    first: str = ""

    def describe(self) -> str:
        """Why nothing of it is read."""
        return f"its files are of kinds that are not read ({self.kinds()})" if self.others else "its folder is empty"

    def kinds(self) -> str:
        """Of what kinds the others are."""
        counts = self.others.most_common(4)
        return (
            ", ".join(f"{number:,} {end or 'without an ending'}" for end, number in counts) + f"; first: {self.first}"
        )


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A folder of files.

    Attributes:
        files: in order; those of a kind that is read.
        called: the folder of the split of each role; empty where there are no splits.
        classes: by role and name of a class, what its folder holds.
        notes: for people.
    """

    files: tuple[FoundFile, ...]
    called: dict[str, str]
    classes: dict[tuple[str, str], ClassFolder]
    notes: tuple[str, ...]


def list_folder(root: Path, endings: Sequence[str], *, ignored: Sequence[str] = (), by_folder: bool = True) -> Listing:
    """List a data set's folder.

    Args:
        endings: of the files that are read, in small letters.
        ignored: names of folders to leave out, of splits or of classes.
        by_folder: a file's class is its folder; else folders beside the splits are listed too, without a role.

    Raises:
        DataError: folders whose meaning is not plain, or that cannot be read.
    """
    top = [entry for entry in _entries(root) if entry.is_dir()]
    seen_ignored = {entry.name for entry in top if entry.name in ignored}
    top = [entry for entry in top if entry.name not in ignored]
    called, notes = _find_splits(root, top, by_folder=by_folder)
    roles = {name: role for role, name in called.items()}
    files: list[FoundFile] = []
    classes: dict[tuple[str, str], ClassFolder] = {}
    for path, above in _walk(root, frozenset({os.path.realpath(root)})):
        is_in_split = above[:1] and above[0] in roles
        role = roles[above[0]] if is_in_split else "" if called else "train"
        folders = above[1:] if is_in_split else above
        left_out = {name for name in (*above[:1], *folders[:1]) if name in ignored}
        if left_out:
            seen_ignored |= left_out
            continue
        own = classes.setdefault((role, folders[0]), ClassFolder()) if folders and role else None
        if path is None:
            continue
        name = "/".join((*above, path.name))
        if ending_of(path) in endings:
            files.append(FoundFile(path=path, name=name, role=role, folders=folders))
            if own is not None:
                own.count += 1
        elif own is not None:
            own.others[path.suffix.lower()] += 1
            own.first = own.first or name
    unknown = sorted(set(ignored) - seen_ignored)
    if unknown:
        raise DataError(f"--ignore {unknown[0]}: {root} has no such folder of a split or a class")
    return Listing(files=tuple(files), called=called, classes=classes, notes=notes)


def _find_splits(
    root: Path, top: list["os.DirEntry[str]"], *, by_folder: bool
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The folder of each split by role, none where the folders are classes; and what to say of it.

    Raises:
        DataError: two folders for one split, none for training, or folders beside the splits.
    """
    splits = {entry.name: role for entry in top if (role := role_of(entry.name)) is not None}
    others = [entry.name for entry in top if entry.name not in splits]
    if not splits:
        return {}, ()
    words = ", ".join(splits)
    if "train" not in splits.values():
        inside = {child.name for entry in top if entry.name in splits for child in _folders(entry)}
        if not others or inside & set(others):
            raise DataError(
                f"{root} holds {words} and no folder for training; put the classes of the training split into "
                f"{root.name}/train (or give the folders other names, if they are classes)"
            )
        return {}, (f"{words}: taken for a class like the folders beside it, since there is no train folder",)
    are_flat = not any(True for entry in top for _ in _folders(entry))
    if by_folder and others and are_flat:
        return {}, (f"{words}: taken for classes like the folders beside them, since no folder holds class folders",)
    if by_folder and others:
        raise DataError(
            f"{root} holds {_some(others)} beside the splits {words}, which are not splits themselves; leave them out "
            f"with --ignore {','.join(others[:3])}{',…' if len(others) > 3 else ''}, or rename them: splits are "
            f"{', '.join('/'.join(names) for names in SPLIT_NAMES.values())}, and inside of a split a class may be too"
        )
    called: dict[str, str] = {}
    for name, role in splits.items():
        if role in called:
            raise DataError(
                f"{root} holds both {called[role]} and {name} for one split; leave one out with --ignore {name}, or "
                "merge them"
            )
        called[role] = name
    return called, ()


def _walk(
    folder: Path, real_above: frozenset[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[Path | None, tuple[str, ...]]]:
    """Files below a folder, each with the folders that it is in; None for one of nothing. In order of names.

    Args:
        real_above: real paths of the folder and those that it is in.
        above: names of the folders from where the walk began.
    """
    entries = _entries(folder)
    if not entries and above:
        yield None, above
    for entry in entries:
        if not entry.is_dir():
            yield Path(entry.path), above
            continue
        real = os.path.realpath(entry.path)
        if real in real_above:
            raise DataError(f"{entry.path} is a link to a folder that it is in itself; take it out")
        yield from _walk(Path(entry.path), real_above | {real}, (*above, entry.name))


def _entries(folder: "Path | os.DirEntry[str]") -> "list[os.DirEntry[str]]":
    """What is in a folder, in order of names; without hidden entries and what systems leave behind."""
    try:
        with os.scandir(folder) as found:
            entries = [entry for entry in found if entry.name[0] != "." and entry.name.lower() not in _SYSTEM]
    except OSError as error:
        raise DataError(f"cannot read the folder {os.fspath(folder)}: {explain(error)}") from error
    return sorted(entries, key=lambda entry: entry.name)


def _folders(entry: "os.DirEntry[str]") -> "list[os.DirEntry[str]]":
    return [child for child in _entries(entry) if child.is_dir()]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
