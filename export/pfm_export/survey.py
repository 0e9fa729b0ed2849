"""What some paths name, found and opened: which artifacts hold which classes, and which files hold none. No torch."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfm.classes import ClassList
from pfm.errors import BundleError, CheckpointError
from pfm.forgetting.artifacts import FolderKind, Holding, HoldingKind, Verdict
from pfm.forgetting.artifacts.walk import Seen, Walk
from pfm.options import expanded
from pfm.storage import sha256
from pfm_export.serving.artifacts import look_at


@dataclass(frozen=True)
class Held:
    """Something that holds classes, and which."""

    path: Path
    kind: HoldingKind | FolderKind
    holding: Holding

    @property
    def ever(self) -> ClassList:
        """Its classes, those erased before included."""
        return self.holding.classes.with_erased(self.holding.erased)

    @property
    def numbers_classes(self) -> bool:
        """Whether its classes have positions, which a command line may name."""
        return not isinstance(self.kind, HoldingKind) or self.kind.numbers_classes


@dataclass
class Survey:
    """What some paths name, opened.

    Attributes:
        others: what holds no classes, or was not looked into.
        linked: files with further names on their disk that the walk did not find: those go on holding everything.
        traces: files that stay as they are, and hold a row of what was erased.
    """

    walk: Walk
    held: list[Held] = field(default_factory=list[Held])
    others: list[Seen] = field(default_factory=list[Seen])
    linked: list[Path] = field(default_factory=list[Path])
    traces: list[Seen] = field(default_factory=list[Seen])

    @property
    def clean(self) -> list[Seen]:
        return [seen for seen in self.others if seen.verdict is Verdict.CLEAN]

    @property
    def closed(self) -> list[Seen]:
        """Files that were not looked into."""
        return [seen for seen in self.others if seen.verdict is Verdict.CLOSED]

    @property
    def elsewhere(self) -> list[Path]:
        """Files that artifacts say hold something of their classes, and that the walk did not come to."""
        named = {path for held in self.held for path in held.holding.elsewhere}
        return sorted(path for path in named if Path(os.path.realpath(path)) not in self.walk.seen)

    def damage(self) -> list[tuple[Path, str]]:
        """What is wrong, in a sentence, with files of artifacts that hold no class: those can be erased from."""
        folders = [(held.path, held.kind) for held in self.held if isinstance(held.kind, FolderKind)]
        return [(path, said) for path, kind in folders for said in kind.damage(path)]


def survey(paths: Iterable[Path]) -> Survey:
    """Find and open everything that some paths name; nothing is changed.

    Raises:
        CheckpointError: nothing is there, a folder without any artifact, or a file named that is not one.
        PfmError: an artifact that is damaged.
    """
    given = given_paths(paths)
    found = opened(look_at(given))
    also = [path for path in found.elsewhere if path.is_file()]
    return opened(look_at(given, also)) if also else found


def given_paths(paths: Iterable[Path] | Path | str) -> list[Path]:
    several = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [expanded(Path(path)) for path in several]


def opened(found: Walk) -> Survey:
    result = Survey(found)
    for seen in found.seen.values():
        kind = seen.kind
        if not isinstance(kind, HoldingKind | FolderKind):
            if seen.path in found.named:
                raise CheckpointError(f"{seen.path} is not a checkpoint or a bundle: {_reason(seen)}")
            result.others.append(seen)
            continue
        try:
            held = Held(seen.path, kind, kind.open(seen.path))
        except (CheckpointError, BundleError) as error:
            if not seen.path.exists():  # deleted since it was found
                continue
            if seen.path in found.named:
                raise
            result.others.append(dataclasses.replace(seen, verdict=Verdict.CLOSED, how=_without_path(error, seen.path)))
            continue
        if len(held.ever):
            result.held.append(held)
        else:
            result.others.append(dataclasses.replace(seen, verdict=Verdict.CLEAN, how="it holds no class at all"))
    places = {held.path for held in result.held}
    for given, leads_to in found.under.items():
        if not places & leads_to:
            closed = sum(seen.path in leads_to for seen in result.closed)
            also = f" ({closed} of its files were not looked into, such as archives)" if closed else ""
            raise CheckpointError(f"{given} holds no checkpoint and no bundle{also}; name the files or folders that do")
    return result


def _reason(seen: Seen) -> str:
    return seen.how if seen.verdict is Verdict.CLEAN else f"{seen.how}; an erasure does not look into it"


def _without_path(error: Exception, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def copies(held: Sequence[Held]) -> dict[Path, Path]:
    """Files that hold the same bytes as another one, each with the first of them."""
    sizes: dict[int, list[Path]] = {}
    for entry in held:
        if isinstance(entry.kind, HoldingKind):
            with contextlib.suppress(FileNotFoundError):  # deleted since it was opened, as a run does
                sizes.setdefault(entry.path.stat().st_size, []).append(entry.path)
    found: dict[Path, Path] = {}
    for files in sizes.values():
        first: dict[str, Path] = {}
        for file in files if len(files) > 1 else []:
            with contextlib.suppress(FileNotFoundError):
                original = first.setdefault(sha256(file), file)
                if original != file:
                    found[file] = original
    return found
