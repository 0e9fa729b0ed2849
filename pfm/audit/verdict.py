"""A verdict for each level of forgetting and each measure: pass, fail, or inconclusive. Never an average.

- suspend: without the prompt the class is hidden. It is not answered, and outputs on its samples say little.
- erase: nothing that belongs to the class is left in the artifact, and no stored prompt brings it back.
- scrub: under attack, the model is like one that never saw the class.
- exact: it is that one, number for number; judged where a model claims it.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

PASS, INCONCLUSIVE, FAIL = "pass", "inconclusive", "fail"
LEVELS = ("suspend", "erase", "scrub", "exact")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One measure of one level, and why it is judged so.

    Attributes:
        value, low, high: what was measured, and its interval.
        limit: what the value is judged by.
        reason: a sentence for people, with these numbers.
    """

    level: str
    measure: str
    value: float
    low: float
    high: float
    limit: float
    verdict: str
    reason: str


def worst(verdicts: Iterable[str]) -> str:
    """The worst of some verdicts; inconclusive where there is none."""
    order = (PASS, INCONCLUSIVE, FAIL)
    return max(verdicts, key=order.index, default=INCONCLUSIVE)


def at_most(low: float, high: float, limit: float) -> str:
    """Whether a quantity known to lie within an interval is at most `limit`."""
    if not (low == low and high == high):  # nan
        return INCONCLUSIVE
    return PASS if high <= limit else FAIL if low > limit else INCONCLUSIVE


def at_least(low: float, high: float, limit: float) -> str:
    """Whether a quantity known to lie within an interval is at least `limit`."""
    return at_most(-high, -low, -limit)


def within(low: float, high: float, limit: float) -> str:
    """Whether a difference known to lie within an interval is at most `limit`, whichever its sign."""
    if not (low == low and high == high):
        return INCONCLUSIVE
    if -limit <= low and high <= limit:
        return PASS
    return FAIL if low > limit or high < -limit else INCONCLUSIVE


class Verdict(TypedDict):
    """All judgements, one verdict a level (which includes the levels below it), and the overall one."""

    overall: str
    levels: dict[str, str]
    measures: list[dict[str, Any]]


def summarise(judgements: Iterable[Judgement]) -> Verdict:
    """Sum up, as plain JSON."""
    found = list(judgements)
    return {
        "overall": worst(entry.verdict for entry in found),
        "levels": {
            level: worst(entry.verdict for entry in found if entry.level in LEVELS[: number + 1])
            for number, level in enumerate(LEVELS)
            if level != LEVELS[-1] or any(entry.level == level for entry in found)  # which few models claim
        },
        "measures": [asdict(entry) for entry in found],
    }
