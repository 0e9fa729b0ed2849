"""Reading many files: which, what came of them, which could not be read, and what is odd about others."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pfm.data.config import FeedConfig
from pfm.data.sharing import Host
from pfm.data.workers import Outcome, default_workers
from pfm.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Intake:
    """How the files of a data set are taken in.

    Attributes:
        feed: the options.
        device: that the model is on.
        host: the processes that load the same data here.
        splits: "train", "val", "test": what is asked for; inputs of others are decoded when somebody wants them all
            the same. None is all.
        say: is told where what was decoded is kept, and how large it is.
        is_shown: whether this process shows its progress to people.
        is_part: it is added to other data, so that one class is enough, and a class may be without samples.
    """

    feed: FeedConfig = field(default_factory=FeedConfig)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    host: Host = field(default_factory=Host)
    splits: frozenset[str] | None = None
    say: Callable[[str], None] = lambda _: None
    is_shown: bool = True
    is_part: bool = False

    @property
    def workers(self) -> int:
        """Decoding processes of this process."""
        return default_workers() if self.feed.data_workers is None else self.feed.data_workers

    def wanted(self, roles: Iterable[str], *, skips: bool) -> list[str]:
        """Which of the splits that a source has are read now.

        Without a split for the test, that will be held out of another one. Of this one nothing is read now, so that
        only what is held out is decoded; unless files that cannot be read are left out of it (`skips`).
        """
        there = list(roles)
        if self.splits is None:
            return there
        found = [role for role in there if role in self.splits]
        if "test" in self.splits and "test" not in there:
            found += ["val"] if "val" in there else ["train"] if skips else []
        return [role for role in there if role in found]


@dataclass(frozen=True, kw_only=True)
class FilesToRead:
    """Files that are to become stored inputs, in this order.

    Attributes:
        load: index -> what is to be decoded: path or bytes of a file, or a PIL image.
        count: how many files.
        where: what to call them, such as "tones/train".
        name: index -> what to call one of them in an error.
        skip_bad: leave out files that cannot be read, and count them.
        max_seconds: what of a longer clip is read.
        intake: how they are taken in.
        classes: the class of each by name, for what is kept for later commands; None where nobody knows.
    """

    load: Callable[[int], Any]
    count: int
    where: str
    name: Callable[[int], str]
    skip_bad: bool = False
    max_seconds: float = 30.0
    intake: Intake = field(default_factory=Intake)
    classes: Sequence[str] | None = None

    def source(self, index: int) -> Any:
        """What is to be decoded, or the outcome of a file that is not there."""
        try:
            return self.load(index)
        except (OSError, ValueError) as error:
            return Outcome(None, str(error))

    def cannot(self, verb: str, index: int, reason: str) -> DataError:
        """The error of a file that cannot be read.

        Args:
            verb: what it cannot be, such as "decode".
        """
        return DataError(f"cannot {verb} {self.name(index)}: {reason}; {HOW_TO_GO_ON}")

    def sources(self, most: int | None = None) -> Iterator[Any]:
        """What is to be decoded, or about `most` of it, spread over all; what is not there is passed over."""
        for index in range(0, self.count, 1 if most is None else max(1, self.count // most)):
            with contextlib.suppress(ValueError, OSError):
                yield self.load(index)


@dataclass(frozen=True)
class Stacked:
    """Files as stored inputs.

    Attributes:
        inputs: (N', …) of the files that could be read.
        kept: (N',) int64, their places among all.
        notes: for people.
    """

    inputs: torch.Tensor
    kept: torch.Tensor
    notes: tuple[str, ...] = ()


@dataclass
class Remarks:
    """Files that are odd but do not stop the reading: how many of each sort, the first by name."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """Count a file under what it is.

        Args:
            what: follows a number, as in "clips silent throughout".
            name: of the file, and why where that differs from file to file.
        """
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, name)

    def notes(self, where: str) -> tuple[str, ...]:
        """A sentence for each sort."""
        return tuple(f"{where}: {count:,} {what}; first: {self.first[what]}" for what, count in self.counts.items())


SKIPPED = "skipped, which cannot be read"
HOW_TO_GO_ON = "fix the file, take it out, or give --skip_bad"


def first_line(error: Exception) -> str:
    """Of what a library says, as much as fits into a message of ours."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
