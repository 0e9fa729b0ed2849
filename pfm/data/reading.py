"""Reading many files: what came of them, which could not be read, and what is odd about others."""

from dataclasses import dataclass, field

import torch


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
    """Files that are odd but do not stop the reading: how many of each kind, the first by name."""

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
        """A sentence for each kind."""
        return tuple(f"{where}: {count:,} {what}; first: {self.first[what]}" for what, count in self.counts.items())


SKIPPED = "skipped, which cannot be read"
HOW_TO_GO_ON = "mend the file, take it out, or give --skip_bad"
