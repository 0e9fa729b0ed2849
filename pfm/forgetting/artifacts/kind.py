"""What a kind of file has to say of itself: whether a file is one, whether it holds classes, how they go.

A kind recognises a file by what is in it and never by its name. Nothing in a file is ever executed.
"""

import enum
import secrets
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NotRequired, TypedDict

from pfm.classes import ClassList
from pfm.errors import CheckpointError, StorageError, explain
from pfm.forgetting.search import Row

HEAD = 4096  # bytes that most kinds can be told by
SHARED = "the shared weights were trained with samples of the erased classes too; erasing does not change them"
MOST_MEMBERS = 100_000  # of a zip file whose table of contents is read


class Verdict(enum.Enum):
    """What can be said of a file before it is opened."""

    HOLDS = "holds classes"
    CLEAN = "clean"
    CLOSED = "not looked into"


class Look:
    """A file as it is, for kinds to recognise."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.size = path.stat().st_size
            with path.open("rb") as file:
                self.head = file.read(HEAD)
        except OSError as error:
            raise StorageError(f"cannot read {path}: {explain(error)}; make it readable, or take it away") from error

    @cached_property
    def members(self) -> tuple[str, ...] | None:
        """Names of the files in a zip file, also one that something else stands in front of; None for other files."""
        try:
            if not zipfile.is_zipfile(self.path):
                return None
            with zipfile.ZipFile(self.path) as archive:
                return tuple(archive.namelist()[:MOST_MEMBERS])
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return None


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The classes of an artifact.

    Attributes:
        classes: that are there.
        erased: number and name of those that were there once.
        ledger_head: hash of the ledger line that announced the last erasure from it; "" where it names none.
        is_exact: an erasure makes the artifact that never saw the class.
        keeps_samples: groups and samples can be found in it and taken out.
        still: what of an erased class is in it even so, as a sentence; "" for nothing.
        follows: what can be drawn again of an erased class, as a sentence (`pfm.model.starts`); "" without prompts.
        elsewhere: files, wherever they are, that hold something of the same classes.
        prompts_centred: whether its prompts sum to zero, as an erasure may leave them; None of what has none, or is
            no artifact to be erased from again.
        sum_claims: its classes own nothing but prompts: minus the sum of those left may stand for one that went.
    """

    classes: ClassList
    erased: tuple[tuple[int, str], ...] = ()
    ledger_head: str = ""
    is_exact: bool = False
    keeps_samples: bool = False
    still: str = SHARED
    follows: str = ""
    elsewhere: tuple[Path, ...] = ()
    prompts_centred: bool | None = None
    sum_claims: bool = False

    @property
    def sum_is_left(self) -> bool:
        """Whether the sum of its prompts says something; see `pfm.forgetting.centring.SUM_LEFT`."""
        return self.sum_claims and self.prompts_centred is False


@dataclass(frozen=True)
class Request:
    """What is asked of an erasure beside the classes.

    Attributes:
        reason, requested_by: free text for the record.
        centre_prompts: move the prompts that are left to mean zero; see `pfm.forgetting.centring`.
        id: the same in every ledger that the erasure writes.
    """

    reason: str = ""
    requested_by: str = ""
    centre_prompts: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(8))


class Left(TypedDict):
    """A class that an erasure leaves in a file.

    Keys:
        id: its number, where it has one.
        prompt: digest of its prompt, where it has one.
    """

    name: str
    id: NotRequired[int]
    prompt: NotRequired[str]


@dataclass(frozen=True)
class RowsOf:
    """What of an artifact other files can be searched for.

    Attributes:
        gone: rows of the classes that are to go.
        kept: of those that stay; a row that is the same as one of them cannot be told.
    """

    gone: Sequence[Row] = ()
    kept: Sequence[Row] = ()


@dataclass(frozen=True, kw_only=True)
class Rewritten:
    """A file without some classes.

    Attributes:
        content: what is to be written; None where nothing is.
        facts: for its line in the ledger.
    """

    content: bytes | None
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


class ArtifactKind(ABC):
    """A kind of file.

    Attributes:
        name: in the output and in the ledger.
        verdict: on files of this kind.
    """

    name: ClassVar[str]
    verdict: ClassVar[Verdict]

    @abstractmethod
    def recognises(self, look: Look) -> bool:
        """Whether a file is of this kind."""

    @abstractmethod
    def how(self, look: Look) -> str:
        """How it is known to be clean, or why it was not looked into."""


class HoldingKind(ArtifactKind):
    """A kind of file that holds classes, which can be taken out of it; recorded in the ledger beside it."""

    verdict = Verdict.HOLDS
    is_kept = True  # it is an artifact, that a certificate can speak of
    numbers_classes = True  # its classes have positions, which a command line may name
    stops_by_itself = False  # once the ledger says what went: nothing is written into it
    is_pointed_to = False  # by other artifacts, as `Holding.elsewhere`; files of other kinds are left alone there
    record: ClassVar[str] = ""  # file in it that says what was erased; "" for the ledger beside it

    def how(self, look: Look) -> str:
        del look
        return "its classes were read"

    @abstractmethod
    def open(self, path: Path) -> Holding:
        """The classes of a file.

        Raises:
            CheckpointError: it is damaged, or of another model or tool: it cannot be looked into.
        """

    def left(self, path: Path, gone: Sequence[tuple[int, str]], *, centre_prompts: bool = False) -> list[Left]:
        """What a file is to hold once some classes went, for the line that announces it: number and name of each.

        Raises:
            CheckpointError: as `open`.
        """
        del centre_prompts
        there = self.open(path).classes
        pairs = zip(there.ids, there.names, strict=True)
        return [Left(name=name, id=number) for number, name in pairs if (number, name) not in gone]

    def rows(self, path: Path, numbers: Collection[int]) -> RowsOf:
        """Rows of classes, by number, that are about to go; none of what has no rows.

        Raises:
            CheckpointError: as `open`.
        """
        del path, numbers
        return RowsOf()

    @abstractmethod
    def rewrite(
        self, path: Path, classes: Sequence[tuple[int, str]], head: str, *, centre_prompts: bool = False
    ) -> Rewritten | None:
        """A file without classes, to be written by the caller; None where that was done for this `head` already.

        Args:
            classes: number and name.
            head: hash of the ledger line that announced it.
            centre_prompts: move the prompts that are left to mean zero, where it has any.
        """


class FolderKind(ABC):
    """A folder that is one artifact and keeps its own record of what was erased from it."""

    name: ClassVar[str]
    is_kept = True  # this and the others as of a `HoldingKind`
    record: ClassVar[str] = ""

    @abstractmethod
    def recognises(self, folder: Path) -> bool:
        """Whether a folder is of this kind, whole or not."""

    @abstractmethod
    def members(self, folder: Path) -> tuple[Path, ...]:
        """Those of its files that `erase` takes care of; the others are looked at one by one."""

    @abstractmethod
    def open(self, folder: Path) -> Holding:
        """Its classes; one whose erasure was begun counts as erased.

        Raises:
            PfmError: it is damaged.
        """

    def rows(self, folder: Path, numbers: Collection[int]) -> RowsOf:
        """As of a `HoldingKind`."""
        del folder, numbers
        return RowsOf()

    def damage(self, folder: Path) -> tuple[str, ...]:
        """A sentence on each of its files that holds no class and is not what it should be; it can be erased from."""
        del folder
        return ()

    @abstractmethod
    def finish(self, folder: Path) -> bool:
        """Complete an erasure that was begun, if there is one; whether there was. The caller holds the lock."""

    @abstractmethod
    def erase(self, folder: Path, names: Sequence[str], request: Request, looked: Mapping[str, Any]) -> None:
        """Take classes out of it for good. The caller holds the lock.

        Args:
            names: none where its prompts are to be centred and no class is left to go.
            looked: what was seen of other files, for the record.
        """


def unreadable(path: Path, why: str) -> CheckpointError:
    """The error of a file that cannot be looked into."""
    return CheckpointError(f"{path}: {why}")
