"""Forgetting k classes at a time: which subsets are removed, and the accuracy on either side.

Letters: N samples of this process, C classes in the bank, S subsets.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from pfm.errors import ConfigError
from pfm.evaluation.table import ActiveSet, Table
from pfm.seeds import make_generator

MOST_SUBSETS = 10**6  # of one size, that are listed


def shortly(count: int) -> str:
    """A number of subsets: in full, or of many digits the first ones."""
    return f"{count:,}" if count < 10**9 else f"{count:.1e}".replace("e+", "e")


@dataclass(frozen=True)
class SubsetAccuracies:
    """Forgetting k classes at a time.

    Attributes:
        subsets: of classes that are removed, positions in the bank.
        forget, retain: one accuracy in [0, 1] per subset; nan where a side has no test sample.
        num_possible: how many subsets of that size there are; more than were run if they were sampled.
    """

    k: int
    subsets: list[ActiveSet]
    forget: list[float]
    retain: list[float]
    num_possible: int

    def summary(self) -> dict[str, float]:
        """Mean and (population) standard deviation over the subsets, as the paper's tool writes them."""
        result = {}
        for name, values in (("forget", self.forget), ("retain", self.retain)):
            known = [value for value in values if not math.isnan(value)]
            result[f"{name}_mean"] = statistics.fmean(known) if known else math.nan
            result[f"{name}_std"] = statistics.pstdev(known) if known else math.nan
        return result


def complement(removed: Iterable[int], num_classes: int) -> ActiveSet:
    """The positions that are left."""
    gone = set(removed)
    return tuple(i for i in range(num_classes) if i not in gone)


def forget_sizes(num_classes: int) -> list[int]:
    """The paper's k: 1, ⌊C/2⌋ and C-1, each once."""
    return sorted({k for k in (1, num_classes // 2, num_classes - 1) if 1 <= k < num_classes})


def choose_subsets(num_classes: int, k: int, max_subsets: int | None, *, seed: int) -> list[ActiveSet]:
    """All k-subsets, or `max_subsets` distinct ones drawn with the seed.

    Raises:
        ConfigError: all of them, and there are more than memory holds.
    """
    possible = math.comb(num_classes, k)
    if max_subsets is None and possible > MOST_SUBSETS:
        raise ConfigError(
            f"there are {shortly(possible)} subsets of {k} of {num_classes} classes; evaluate at most --max_subsets"
        )
    if max_subsets is None or possible <= max_subsets:
        return list(itertools.combinations(range(num_classes), k))
    generator = make_generator(seed, "subsets", k)
    chosen: set[ActiveSet] = set()
    while len(chosen) < max_subsets:
        members = torch.randperm(num_classes, generator=generator)[:k].tolist()
        chosen.add(tuple(sorted(members)))
    return sorted(chosen)


def subset_accuracies(
    table: Table,
    labels: torch.Tensor,
    subsets: Sequence[ActiveSet],
    num_classes: int,
    total: Callable[[torch.Tensor], torch.Tensor],
) -> SubsetAccuracies:
    """Accuracy on the samples of removed and of retained classes, over all processes.

    Args:
        table: of the complement of each subset, at least.
        labels: (N,) of this process's samples; those of erased classes, -1, count on neither side.
        subsets: all of one size.
        total: sums counts over the processes, as float64.
    """
    counts = torch.zeros(len(subsets), 4, dtype=torch.int64)  # forget right, all; retain right, all
    is_there = labels >= 0
    for row, removed in enumerate(subsets):
        right = table.answers[complement(removed, num_classes)] == labels
        is_forgotten = torch.isin(labels, torch.tensor(removed, dtype=torch.int64))
        is_retained = is_there & ~is_forgotten
        counts[row] = torch.stack(
            [(right & is_forgotten).sum(), is_forgotten.sum(), (right & is_retained).sum(), is_retained.sum()]
        )
    counts = total(counts)  # (S, 4)
    k = len(subsets[0])
    return SubsetAccuracies(
        k=k,
        subsets=list(subsets),
        forget=(counts[:, 0] / counts[:, 1]).tolist(),
        retain=(counts[:, 2] / counts[:, 3]).tolist(),
        num_possible=math.comb(num_classes, k),
    )
