"""The rule of judgement, in one place: a forgotten model beside R models retrained without the class (oracles).

For a measure let d be the judged model's value less the oracles' mean, s their standard deviation among themselves (the
null, which is measured), b the standard error of d by the test samples, and ε the tolerance. Two one-sided tests:

- **pass**: |d| + √((t s / √R)² + (z b)²) ≤ ε. The judged model is one given file, so what is unknown of d is where the
  oracles' mean is, and what other test samples would say.
- **fail**: |d| > ε, and |d| > t′ max(s, b) √(1 + 1/R): no retrained model would be so far from R others. An oracle is
  itself not at the mean, so this one is wider. For a spread of 2 points it is ±6.7 (R = 3), ±4.7 (5), ±3.8 (10).
- **inconclusive**: neither; `settled_by` says what would settle it. So is what would pass on fewer than ten test
  samples: of a few that are all answered alike, b is zero, and says nothing of others.

t and z are of 90 % (5 % a side). Where a level has m measures, t′ is of 0.9^(1/√m) for each, so that a retrained model
fails one of them in about a tenth of all audits (Tukey, Ciminera and Heyse, 1985: measures of one model go together).

Nothing is compared with "uniform", or with any other idea of what a model ought to say of a class that it never saw.
"""

import dataclasses
import functools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from pfm.audit.student import quantile

PASS, INCONCLUSIVE, FAIL = "pass", "inconclusive", "fail"
RULE = 2  # audits of before, with one retrained model and fixed limits, name none
CONFIDENCE = 0.90
Z = 1.644854  # of CONFIDENCE, many degrees of freedom
MOST = 100  # oracles that anybody would train
MEASURES = 16  # of the level scrub, about
LEAST_SAMPLES = 10  # test samples that a pass rests on
USUAL_SPREAD = 0.02  # that is spoken of before anything is measured
WANTED = 0.80  # of the models that it is right about, how many the rule is to settle


class Tolerance:
    """How far from the oracles' mean each kind of measure may be: about three times what retrained models differ by.

    Chosen on one class of digits (`bench/audit_calibration.py`), so that four of five retrained models pass the level;
    never by the model that is judged.
    """

    AREA = 0.075  # AUROC of the class's score under attack; balanced accuracy of a probe
    MEMBERSHIP = 0.25  # area of a membership attack within a class, which has few test samples
    MEMBERSHIP_RETAINED = 0.05  # the same of the retained classes, of which there are many
    ACCURACY = 0.10  # share of samples answered so or so
    ENTROPY = 0.40  # H(p) / ln C, which differs much between seeds
    UNKNOWN = 0.20  # share answered `unknown`
    DIVERGENCE = 0.10  # nats, of at most ln 2
    COSINE = 0.30
    RETAINED = 0.10  # accuracy on the few classes next to it
    KNOWN = 0.20  # accuracy above chance from which a class counts as learned


class Side(StrEnum):
    """Which differences count: any, or only being above or below the oracles."""

    BOTH = "both"
    ABOVE = "above"
    BELOW = "below"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure of the judged model, and of the oracles.

    Attributes:
        oracles: one value each.
        sampling: b, the standard error of the difference by the test samples.
        covariance: (1 + R, 1 + R) of the values by the test samples, the judged model first.
        num_samples: test samples behind it, of the class where it is about both sides.
    """

    value: float
    oracles: tuple[float, ...]
    tolerance: float
    sampling: float = 0.0
    num_samples: int = 0
    side: Side = Side.BOTH
    covariance: tuple[tuple[float, ...], ...] = ()

    def among(self, judged: int, others: Sequence[int]) -> "Comparison":
        """The same measure with another model in the place of the judged one, and some as its oracles.

        Args:
            judged, others: 0 is the judged model, 1 to R are the oracles.
        """
        values = (self.value, *self.oracles)
        weights = {judged: 1.0, **{number: -1 / len(others) for number in others}}
        variance = sum(a * b * self.covariance[i][j] for i, a in weights.items() for j, b in weights.items())
        return dataclasses.replace(
            self, value=values[judged], oracles=tuple(values[number] for number in others),
            sampling=math.sqrt(max(0.0, variance)), covariance=(),
        )  # fmt: skip

    @property
    def difference(self) -> float:
        """d."""
        return self.value - statistics.fmean(self.oracles)

    @property
    def spread(self) -> float:
        """s; nan of fewer than two oracles."""
        return statistics.stdev(self.oracles) if len(self.oracles) > 1 else math.nan

    @property
    def excess(self) -> float:
        """How far it is on the side that counts; may be negative."""
        difference = self.difference
        return {Side.BOTH: abs(difference), Side.ABOVE: difference, Side.BELOW: -difference}[self.side]


def confidence_each(num_measures: int) -> float:
    """Of one measure of m."""
    return CONFIDENCE ** (1 / math.sqrt(max(1, num_measures)))


@functools.cache
def _t(oracles: int, confidence: float) -> float:
    return quantile((1 + confidence) / 2, oracles - 1)


def near(spread: float, oracles: int, sampling: float = 0.0) -> float:
    """Half the width of the interval of d."""
    if oracles < 2:
        return math.inf
    return math.hypot(_t(oracles, CONFIDENCE) * spread / math.sqrt(oracles), Z * sampling)


def far(spread: float, oracles: int, *, sampling: float = 0.0, num_measures: int = 1) -> float:
    """How far from the mean of R oracles one more of them falls."""
    if oracles < 2:
        return math.inf
    return _t(oracles, confidence_each(num_measures)) * max(spread, sampling) * math.sqrt(1 + 1 / oracles)


def judge(found: Comparison, num_measures: int = 1) -> str:
    """Pass, fail or inconclusive.

    Args:
        num_measures: of the level that it belongs to.
    """
    return _decide(found, len(found.oracles), num_measures)


def _decide(found: Comparison, oracles: int, num_measures: int) -> str:
    if len(found.oracles) < 2 or not math.isfinite(found.difference):
        return INCONCLUSIVE
    excess, spread, sampling = found.excess, found.spread, found.sampling
    if excess + near(spread, oracles, sampling) <= found.tolerance:
        return INCONCLUSIVE if 0 < found.num_samples < LEAST_SAMPLES else PASS
    limit = max(found.tolerance, far(spread, oracles, sampling=sampling, num_measures=num_measures))
    return FAIL if excess > limit else INCONCLUSIVE


def interval(found: Comparison) -> tuple[float, float]:
    """Of d."""
    half = near(found.spread, len(found.oracles), found.sampling)
    return found.difference - half, found.difference + half


def oracles_needed(found: Comparison, num_measures: int = 1) -> int | None:
    """How many oracles would settle it if difference and spread stay as they are; None where no number would."""
    counts = range(max(2, len(found.oracles)), MOST + 1)
    return next((count for count in counts if _decide(found, count, num_measures) != INCONCLUSIVE), None)


def samples_needed(found: Comparison) -> int | None:
    """How many test samples of the class it takes to pass, with as many oracles as one likes; None where it cannot."""
    room = found.tolerance - found.excess
    if room <= 0 or not found.num_samples:
        return None
    return math.ceil(found.num_samples * max(1.0, (Z * found.sampling / room) ** 2))


def settled_by(found: Comparison, num_measures: int = 1) -> str:
    """What would settle an inconclusive comparison, in words."""
    if len(found.oracles) < 2:
        return "it takes at least two retrained models"
    if 0 < found.num_samples < LEAST_SAMPLES:
        return f"it takes at least {LEAST_SAMPLES} test samples, of which there are {found.num_samples}"
    oracles, samples = oracles_needed(found, num_measures), samples_needed(found)
    if oracles is not None:
        return f"about {oracles} retrained models would settle it"
    if samples is not None and samples > found.num_samples:
        return f"about {samples} test samples would settle it, of which there are {found.num_samples}"
    return "no number of retrained models settles it: among themselves they differ as much"


# --- the precondition -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Learned:
    """Whether the full model knew the class: what was never learned cannot be forgotten.

    Attributes:
        accuracy, low: on the class, and the lower end of its interval.
        chance: how often the class is answered where it is wrong, at least one in C.
        margin: above chance.
    """

    accuracy: float
    low: float
    chance: float
    margin: float = Tolerance.KNOWN

    @property
    def is_known(self) -> bool:
        return self.low >= self.chance + self.margin

    @property
    def reason(self) -> str:
        said = f"the full model answers {self.accuracy:.1%} of the class's samples rightly (at least {self.low:.1%})"
        wanted = f"chance is {self.chance:.1%}, and {self.margin:.0%} more are asked for"
        return f"{said}; {wanted}" if self.is_known else f"it was never learned: {said}; {wanted}"


# --- what the rule can find -----------------------------------------------------------------------


class Shares(NamedTuple):
    """How often each verdict is given, in [0, 1]."""

    passed: float
    inconclusive: float
    failed: float


def power(
    gap: float, spread: float, oracles: int, *, tolerance: float = Tolerance.AREA, num_measures: int = 1,
    draws: int = 4000, seed: int = 0,
) -> Shares:  # fmt: skip
    """Verdicts on models that are retrained ones moved by `gap`, drawn from normal distributions.

    Args:
        gap: 0 puts a retrained model in the place of the forgotten one.
        spread: true standard deviation of retrained models among themselves.
    """
    stream, counts = random.Random(seed), dict.fromkeys((PASS, INCONCLUSIVE, FAIL), 0)
    width = spread * math.sqrt(1 + 1 / oracles)
    for _ in range(draws):
        difference = abs(stream.gauss(gap, width))
        measured = spread * math.sqrt(stream.gammavariate((oracles - 1) / 2, 2) / (oracles - 1))
        if difference + near(measured, oracles) <= tolerance:
            counts[PASS] += 1
        elif difference > max(tolerance, far(measured, oracles, num_measures=num_measures)):
            counts[FAIL] += 1
        else:
            counts[INCONCLUSIVE] += 1
    return Shares(counts[PASS] / draws, counts[INCONCLUSIVE] / draws, counts[FAIL] / draws)


def recommended_oracles(
    spread: float, tolerance: float = Tolerance.AREA, most: int = 30, num_measures: int = 1
) -> int | None:
    """The fewest with which a retrained model passes, and one with a gap of 2ε fails, in 80 %; None where none do.

    Args:
        num_measures: of the level that is to pass; each has to do so more often, 0.8^(1/√m), as in `confidence_each`.
    """
    each = WANTED ** (1 / math.sqrt(max(1, num_measures)))
    for count in range(3, most + 1):
        fair = power(0.0, spread, count, tolerance=tolerance, draws=2000)
        planted = power(2 * tolerance, spread, count, tolerance=tolerance, num_measures=num_measures, draws=2000)
        if fair.passed >= each and planted.failed >= WANTED:
            return count
    return None


def prospects(oracles: int, tolerance: float = Tolerance.AREA, most: int = 0) -> str:
    """What so many oracles can and cannot find, said before they are trained.

    Args:
        most: how many may be trained where the first ones differ much.
    """
    if oracles < 2:
        return "one retrained model has no spread: every comparison with it will be inconclusive; give --oracles 3"
    spread = USUAL_SPREAD
    alone = 100 * far(spread, oracles)
    beyond = [100 * max(tolerance, far(spread, oracles, num_measures=count)) for count in (1, MEASURES)]
    others = [f"±{100 * far(spread, count):.1f} with {count}" for count in (5, 10) if count > oracles]
    within = f"±{alone:.1f} points of their mean" + (f" ({', '.join(others)})" if others else "")
    room = 100 * (tolerance - near(spread, oracles))
    passes = "none can be sure to pass"
    if room > 0:
        fair = power(0.0, spread, oracles, tolerance=tolerance, draws=1000).passed
        passes = f"it passes within ±{room:.1f}, which {fair:.0%} of retrained models are"
    return (
        f"{oracles} retrained models: if they differ by {100 * spread:.0f} points among themselves, one more of them "
        f"falls within {within}. One measure alone fails beyond ±{beyond[0]:.1f}, one of {MEASURES} beyond "
        f"±{beyond[1]:.1f}; "
        f"{passes}."
        + (" This finds faults and seldom passes everything." if others else "")
        + (f" More are trained where these differ by more, {most} at most." if most > oracles else "")
    )
