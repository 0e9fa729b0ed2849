"""Gaps of several audits pooled: a hierarchical bootstrap over classes, and over seeds within each.

Audits of one class have much in common, so that thirty audits of ten classes are not thirty independent ones.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pfm.audit.figures import REPLICATES, interval
from pfm.audit.rule import CONFIDENCE


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """A mean over classes of means over seeds, and its interval."""

    mean: float
    low: float
    high: float
    num_classes: int
    num_audits: int


def pool(gaps: Sequence[Sequence[float]], generator: torch.Generator, level: float = CONFIDENCE) -> Pooled:
    """Pool the gaps of each class's audits.

    Args:
        gaps: one sequence a class, of one gap a seed; as many as there are.
    """
    means = torch.stack([_resampled(torch.tensor(own, dtype=torch.float64), generator) for own in gaps])  # (C, R)
    classes = torch.randint(len(gaps), (len(gaps), REPLICATES), generator=generator)
    low, high = interval(means.gather(0, classes).mean(dim=0), level)
    return Pooled(
        mean=statistics.fmean(statistics.fmean(own) for own in gaps),
        low=low,
        high=high,
        num_classes=len(gaps),
        num_audits=sum(map(len, gaps)),
    )


def _resampled(values: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(R,) means of as many values drawn with replacement."""
    return values[torch.randint(len(values), (REPLICATES, len(values)), generator=generator)].mean(dim=1)
