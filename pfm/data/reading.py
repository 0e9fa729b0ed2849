"""Reading many files: which, what came of them, which could not be read, and what is odd about others."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch


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
        device: that computes features.  [default: the CPU]
    """

    load: Callable[[int], Any]
    count: int
    where: str
    name: Callable[[int], str]
    skip_bad: bool = False
    max_seconds: float = 30.0
    device: torch.device | None = None

    def sources(self) -> Iterator[Any]:
        """What is to be decoded, one after another; what is not there is passed over."""
        for index in range(self.count):
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


def joined(files: Mapping[str, FilesToRead]) -> FilesToRead:
    """The files of all splits, one split after another, to be read alike."""
    places = [(split, index) for split, part in files.items() for index in range(part.count)]

    def load(number: int) -> Any:
        split, index = places[number]
        return files[split].load(index)

    def name(number: int) -> str:
        split, index = places[number]
        return files[split].name(index)

    where = " and ".join(part.where for part in files.values())
    return replace(next(iter(files.values())), load=load, count=len(places), where=where, name=name)


def parted(stacked: Stacked, files: Mapping[str, FilesToRead]) -> dict[str, Stacked]:
    """What was read of `joined(files)`, split by split; the notes, which are of all, with the first."""
    found: dict[str, Stacked] = {}
    start = 0
    for split, part in files.items():
        is_own = (stacked.kept >= start) & (stacked.kept < start + part.count)
        rows = is_own.nonzero()[:, 0]
        own = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)  # they stand together
        found[split] = Stacked(stacked.inputs[own], stacked.kept[rows] - start, () if found else stacked.notes)
        start += part.count
    return found


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
