"""Figures that are derived from raw samples, each with the interval that the number of samples leaves.

Intervals are 95 % percentile bootstraps, over the rounds where two series are paired by round. A p99
of less than a hundred samples is hardly more than their maximum; its interval then says little too.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

PERCENTILES = (50, 90, 99)
DRAWS = 2000

Interval = tuple[float, float]  # low, high


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Of latencies, in milliseconds."""

    p50_ms: float
    p90_ms: float
    p99_ms: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """A ratio of times and its interval."""

    median: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def describe(self, digits: int = 2) -> str:
        """`×0.81 (0.79–0.84)`."""
        return f"×{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


def percentiles(values: Sequence[float]) -> Percentiles:
    """p50, p90 and p99 of milliseconds."""
    return Percentiles(**{f"p{q}_ms": float(np.percentile(values, q)) for q in PERCENTILES})


def percentile_intervals(values: Sequence[float], *, draws: int = DRAWS) -> dict[str, Interval]:
    """The interval of each percentile in milliseconds, by the percentile's name (`p50_ms`)."""
    drawn = np.percentile(_resample(np.array(values), draws), PERCENTILES, axis=1)  # (percentiles, draws)
    limits = np.percentile(drawn, (2.5, 97.5), axis=1).T
    return {f"p{q}_ms": (float(low), float(high)) for q, (low, high) in zip(PERCENTILES, limits, strict=True)}


def paired_ratio(times: Sequence[float], reference: Sequence[float], *, draws: int = DRAWS) -> Ratio:
    """Time over reference time, paired by round: the median, and its interval by bootstrap over the rounds."""
    pairs = np.array(times) / np.array(reference)
    return _with_interval(float(np.median(pairs)), np.median(_resample(pairs, draws), axis=1))


def paired_speed(times: Sequence[float], reference: Sequence[float], *, draws: int = DRAWS) -> Ratio:
    """How many times as fast as the reference: reference time over time, paired by round; see `paired_ratio`."""
    return paired_ratio(reference, times, draws=draws)


def unpaired_ratio(times: Sequence[float], reference: Sequence[float], *, draws: int = DRAWS) -> Ratio:
    """Median over median of two series that were measured apart, each resampled on its own."""
    over = np.median(_resample(np.array(times), draws, seed=1), axis=1)
    under = np.median(_resample(np.array(reference), draws, seed=2), axis=1)
    return _with_interval(float(np.median(times) / np.median(reference)), over / under)


def ratio_of_ratios(
    times: Sequence[float],
    reference: Sequence[float],
    other_times: Sequence[float],
    other_reference: Sequence[float],
    *,
    draws: int = DRAWS,
) -> Ratio:
    """`paired_ratio(times, reference)` over that of another run: a machine that became slower drops out."""
    pairs = np.array(times) / np.array(reference)
    other_pairs = np.array(other_times) / np.array(other_reference)
    return unpaired_ratio(list(pairs), list(other_pairs), draws=draws)


def mean_interval(values: Sequence[float], *, draws: int = DRAWS) -> Interval:
    """The interval of the mean."""
    low, high = np.percentile(_resample(np.array(values), draws).mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _resample(values: np.ndarray, draws: int, seed: int = 0) -> np.ndarray:
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    return values[chosen]  # (draws, samples)


def _with_interval(middle: float, drawn: np.ndarray) -> Ratio:
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Ratio(median=middle, low=float(low), high=float(high))
