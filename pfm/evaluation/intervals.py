"""95 % intervals of each class's precision, recall and AUC: the percentiles over resampled samples, or whole groups.

A resample is how often each sample counts. With those weights the three are sums over samples once sorted, which a
call of scikit-learn's for each class and resample would take minutes for; a test compares them with it.

Letters: N samples, C classes, G groups, R resamples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypedDict

import numpy as np

Interval = tuple[float, float]
PERCENTILES = (2.5, 97.5)
MOST_WORK = 2e8  # samples times classes times resamples, some ten seconds
FEWEST = 100  # resamples that an interval can be read off


@dataclass(frozen=True, kw_only=True)
class Resampling:
    """How intervals came about.

    Attributes:
        unit: what was drawn with replacement: "sample" or "group".
        num_units: how many there are.
    """

    unit: str
    num_units: int
    num_resamples: int


class ClassIntervals(TypedDict):
    """Of one class, by the names of `ClassMeasures`; None where it is not defined."""

    precision_interval: Interval | None
    recall_interval: Interval | None
    auc_interval: Interval | None


def resampled_intervals(
    labels: np.ndarray,
    answers: np.ndarray,
    probabilities: np.ndarray,
    *,
    groups: Sequence[str] | None,
    num_resamples: int,
    seed: int,
) -> tuple[list[ClassIntervals], Resampling | None]:
    """Intervals of each class; none where one sample or group is all there is, or so many would take too long.

    Args:
        labels, answers: (N,) positions, -1 for `unknown`.
        probabilities: (N, C).
        groups: (N,) of each sample.
    """
    num_classes = probabilities.shape[1]
    nothing = [ClassIntervals(precision_interval=None, recall_interval=None, auc_interval=None)] * num_classes
    units = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    num_units = int(units.max(initial=-1)) + 1
    num_resamples = min(num_resamples, int(MOST_WORK / max(labels.size * num_classes, 1)))
    if num_units < 2 or num_resamples < FEWEST:
        return nothing, None
    random = np.random.default_rng(seed)
    shares = np.full(num_units, 1 / num_units)  # (G,)
    rankings = [Ranking.of(labels == i, probabilities[:, i]) for i in range(num_classes)]
    found = np.empty((num_resamples, num_classes, 3))
    for row in range(num_resamples):
        weights = random.multinomial(num_units, shares)[units].astype(np.float64)  # (N,)
        found[row, :, :2] = weighted_precision_recall(labels, answers, weights, num_classes)
        for i in range(num_classes):
            found[row, i, 2] = rankings[i].weighted_auc(weights)
    intervals = [
        ClassIntervals(
            precision_interval=_interval(found[:, i, 0]),
            recall_interval=_interval(found[:, i, 1]),
            auc_interval=_interval(found[:, i, 2]),
        )
        for i in range(num_classes)
    ]
    unit = "sample" if groups is None else "group"
    return intervals, Resampling(unit=unit, num_units=num_units, num_resamples=num_resamples)


def weighted_precision_recall(
    labels: np.ndarray, answers: np.ndarray, weights: np.ndarray, num_classes: int
) -> np.ndarray:
    """(C, 2), nan where nothing has weight.

    Args:
        labels, answers, weights: (N,).
    """
    right = np.bincount(labels, weights * (labels == answers), num_classes)
    answered = np.bincount(answers + 1, weights, num_classes + 1)[1:]
    there = np.bincount(labels, weights, num_classes)
    return np.stack([_share(right, answered), _share(right, there)], axis=1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


@dataclass(frozen=True)
class Ranking:
    """Samples by their score for one class, which is found once for all resamples.

    Attributes:
        order: (N,) sorts the scores, ascending.
        is_own: (N,) in that order, which samples are of the class.
        starts: places in that order at which a run of equal scores begins.
    """

    order: np.ndarray
    is_own: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, is_own: np.ndarray, scores: np.ndarray) -> Self:
        """Of (N,) samples."""
        order = np.argsort(scores, kind="stable")
        ranked = scores[order]
        return cls(order, is_own[order], np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])))

    def weighted_auc(self, weights: np.ndarray) -> float:
        """Share of pairs of an own and another sample in which the own one scores higher, ties one half.

        Args:
            weights: (N,).

        Returns:
            nan where there are no pairs.
        """
        ranked = weights[self.order]
        own = ranked * self.is_own
        others = ranked - own
        if len(self.starts) < len(ranked):
            own, others = np.add.reduceat(own, self.starts), np.add.reduceat(others, self.starts)
        below = others.cumsum()
        pairs = own.sum() * below[-1]
        return float(own @ (below - others / 2) / pairs) if pairs else float("nan")


def _interval(values: np.ndarray) -> Interval | None:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        return None
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)
