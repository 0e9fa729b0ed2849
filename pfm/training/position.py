"""Where a run stands, and when something is due."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Position:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        epoch, batch: what comes next, counted from 0; `batch` may be one past the last of its epoch,
            which then is still to be evaluated.
        step: optimizer steps taken.
        history: accuracies by inference mode, one per finished epoch.
        losses: by name, means over the steps since they were last logged.
        best: the best value of --best_metric so far, None before the first.
        stale: evaluations since then.
        is_over: nothing is left to do, since --patience ran out.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: dict[str, list[float | None]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    stale: int = 0
    is_over: bool = False

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` made, perhaps with more beside it."""
        return cls(**{entry.name: saved[entry.name] for entry in dataclasses.fields(cls) if entry.name in saved})

    def finish_epoch(self, modes: dict[str, float] | None) -> None:
        """Go to the next epoch, with this one's accuracies; null where it was not evaluated."""
        if modes is None:
            for values in self.history.values():
                values.append(None)
        else:
            for name, accuracy in modes.items():
                self.history.setdefault(name, [None] * self.epoch).append(accuracy)
        self.epoch, self.batch = self.epoch + 1, 0

    def note(self, value: float, patience: int) -> bool:
        """Take in a value of --best_metric: whether it is the best; the run is over once `patience` were not."""
        if self.best is None or value > self.best:
            self.best, self.stale = value, 0
            return True
        self.stale += 1
        self.is_over = 0 < patience <= self.stale
        return False


def is_due(number: int, every: int) -> bool:
    """Whether the epoch or step (from 0) is one of every `every`-th; never where that is 0."""
    return every > 0 and (number + 1) % every == 0


def num_due(count: int, every: int) -> int:
    """How many of `count` epochs or steps are due, where the last one always is; 0 where `every` is 0."""
    return -(-count // every) if every > 0 else 0
