"""A verdict for each level of forgetting and each measure: pass, fail, or inconclusive. Never an average.

- suspend: without the prompt the class is hidden. It is not answered, and outputs on its samples say little.
- erase: nothing that belongs to the class is left in the artifact, and no stored prompt brings it back.
- scrub: under attack, the model is like one that never saw the class.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

PASS, INCONCLUSIVE, FAIL = "pass", "inconclusive", "fail"
LEVELS = ("suspend", "erase", "scrub")
# how far from a guess the hidden class may be answered; how certain outputs on its samples may be
ANSWERED = 0.10
UNIFORM = 0.80


@dataclass(frozen=True)
class Judgement:
    """One measure of one level, and why it is judged so."""

    level: str
    measure: str
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
    return at_most(-high, -low, -limit)


def within(low: float, high: float, limit: float) -> str:
    """Whether a difference known to lie within an interval is at most `limit`, whichever its sign."""
    if not (low == low and high == high):
        return INCONCLUSIVE
    if -limit <= low and high <= limit:
        return PASS
    return FAIL if low > limit or high < -limit else INCONCLUSIVE


def summarise(judgements: list[Judgement]) -> dict[str, Any]:
    """All judgements, one verdict a level (which includes the levels below it), and the overall one."""
    levels = {}
    for number, level in enumerate(LEVELS):
        levels[level] = worst(entry.verdict for entry in judgements if entry.level in LEVELS[: number + 1])
    return {
        "overall": worst(entry.verdict for entry in judgements),
        "levels": levels,
        "measures": [asdict(entry) for entry in judgements],
    }
