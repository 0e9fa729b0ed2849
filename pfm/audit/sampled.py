"""A measure of one model with what each test sample adds to it, so that two models are compared on the same samples.

Of a mean the contributions are the values; of an area under the ROC curve they are the placements of both sides (DeLong
et al., 1988): how much of the other side each sample beats. The variance of a difference follows from the differences
of the contributions, without a bootstrap.

Letters: N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pfm.audit.rule import Comparison, Side


@dataclass(frozen=True)
class Sampled:
    """A measure.

    Attributes:
        parts: (N,) contributions of each independent group of samples, the class's first; the sum of the means'
            variances is that of the value.
    """

    value: float
    parts: tuple[torch.Tensor, ...]


def mean_of(values: torch.Tensor) -> Sampled:
    """Of a value a sample, (N,)."""
    return Sampled(float(values.double().mean()), (values.double(),))


def balanced_of(own: torch.Tensor, rest: torch.Tensor) -> Sampled:
    """The mean of the means of two groups."""
    parts = (0.5 * own.double(), 0.5 * rest.double())
    return Sampled(sum(float(part.mean()) for part in parts), parts)


def area_of(own: torch.Tensor, rest: torch.Tensor) -> Sampled:
    """Area under the ROC curve of scores that are to be higher for the class's samples; nan where one is not a number.

    Sorted, such a score would stand above all others, and could be put where an area is to be another.
    """
    own, rest = own.double(), rest.double()
    if bool(own.isnan().any()) or bool(rest.isnan().any()):
        own, rest = own * math.nan, rest * math.nan
        return placed(own, rest)
    return placed(_share_below(own, rest), 1 - _share_below(rest, own))


def _share_below(values: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Share of the others that is below each value, half of those that equal it, without a table of all pairs."""
    order = others.sort().values
    counts = [torch.searchsorted(order, values, right=is_right).double() for is_right in (False, True)]
    return (counts[0] + counts[1]) / (2 * len(others))


def placed(own: torch.Tensor, rest: torch.Tensor) -> Sampled:
    """The same from placements: the share of the others that each sample beats, and of the class that beats each."""
    return Sampled(float(own.mean()), (own.double(), rest.double()))


def compare(judged: Sampled, oracles: Sequence[Sampled], tolerance: float, *, side: Side = Side.BOTH) -> Comparison:
    """The judged model beside the oracles, all of them asked for the same samples."""
    everyone = (judged, *oracles)
    covariance = torch.zeros(len(everyone), len(everyone), dtype=torch.float64)
    for number, part in enumerate(judged.parts):
        rows = torch.stack([one.parts[number] for one in everyone])  # (1 + R, N)
        covariance += torch.cov(rows) / len(part) if len(part) > 1 else math.nan
    weights = torch.tensor([1.0, *[-1 / len(oracles)] * len(oracles)], dtype=torch.float64)
    variance = float(weights @ covariance @ weights)
    return Comparison(
        value=judged.value,
        oracles=tuple(oracle.value for oracle in oracles),
        tolerance=tolerance,
        sampling=math.sqrt(max(0.0, variance)) if variance == variance else math.inf,
        num_samples=len(judged.parts[0]),
        side=side,
        covariance=tuple(tuple(row) for row in covariance.tolist()),
    )
