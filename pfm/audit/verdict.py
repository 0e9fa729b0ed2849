"""A verdict for each level of forgetting and each measure: pass, fail, or inconclusive. Never an average.

- suspend: without the prompt the class is hidden. It is not answered, and outputs on its samples say no more than those
  of a model that never saw it.
- erase: nothing that belongs to the class is left in the artifact, and no stored prompt brings it back.
- scrub: in every measure, and under attack, the model is like one that never saw the class.
- exact: it is that one, number for number; judged where a model claims it.

What is compared with retrained models is judged by `pfm.audit.rule`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypedDict

from pfm.audit import rule
from pfm.audit.rule import FAIL, INCONCLUSIVE, PASS, Comparison, Learned

__all__ = ["FAIL", "INCONCLUSIVE", "LEVELS", "PASS", "Judgement", "Verdict", "at_least", "at_most", "by_rule",
           "summarise", "within", "worst"]  # fmt: skip

LEVELS = ("suspend", "erase", "scrub", "exact")
SENTENCES = {
    "suspend": {
        PASS: "With its prompt left out the class is not answered, and the outputs on its samples say no more than "
        "those of a model that never saw it.",
        FAIL: "With its prompt left out the class still shows in the outputs.",
        INCONCLUSIVE: "It is not settled whether the class still shows in the outputs once its prompt is left out.",
    },
    "erase": {
        PASS: "The file holds nothing that belongs to the class, and what is left in it does not give the class back.",
        FAIL: "The file still holds the class, or gives it back without a sample of it, or shows it in the outputs.",
        INCONCLUSIVE: "Whether the file still gives the class back is not settled, or what comes before that is not.",
    },
    "scrub": {
        PASS: "Under every attack made here, the model is like one that never saw the class.",
        FAIL: "The model can be told from one that never saw the class: its weights or outputs still bear on it.",
        INCONCLUSIVE: "Whether the weights still know the class is not settled; the table says what would settle it.",
    },
    "exact": {
        PASS: "The model is the one that never saw the class, number for number.",
        FAIL: "The model is not the one that never saw the class.",
        INCONCLUSIVE: "Whether the model is the one that never saw the class is not settled.",
    },
}  # fmt: skip
EQUAL = "settled: the model is, number for number, one that never saw the classes"
NEVER_LEARNED = "Not judged: the full model did not know the class, so there was nothing to forget."


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One measure of one level, and why it is judged so.

    Attributes:
        value, low, high: what was measured, and its interval; of a comparison, the difference from the oracles.
        limit: what the value is judged by.
        reason: a sentence for people, with these numbers.
        comparison: with the retrained models, where the rule judges; its verdict is then final in `summarise`, which
            knows how many measures the level has.
        what: the measure of a comparison in words, as the start of the reason.
        settles: what is judged was shown to be a model that never saw the classes, so that comparing it with others of
            that kind says what luck is, and nothing of the classes.
    """

    level: str
    measure: str
    value: float
    low: float
    high: float
    limit: float
    verdict: str
    reason: str
    comparison: Comparison | None = None
    what: str = ""
    settles: bool = False


def by_number(
    level: str, measure: str, value: float, *, limit: float, verdict: str, reason: str, settles: bool = False
) -> Judgement:
    """Of a number that is what it is, without an interval; see `Judgement`."""
    return Judgement(
        level=level, measure=measure, value=value, low=value, high=value, limit=limit, verdict=verdict, reason=reason,
        settles=settles,
    )  # fmt: skip


def by_rule(level: str, measure: str, found: Comparison, what: str, num_measures: int = 1) -> Judgement:
    """What the rule says of a comparison with the retrained models.

    Args:
        what: the measure in words, as the start of a sentence.
        num_measures: of the level.
    """
    low, high = rule.interval(found)
    verdict = rule.judge(found, num_measures)
    oracles = len(found.oracles)
    mean = found.value - found.difference
    reason = (
        f"{what} {found.value:.3f}, of {oracles} retrained model{'s' * (oracles != 1)} {mean:.3f}: "
        f"{found.difference:+.3f} ({low:+.3f} to {high:+.3f})"
    )
    if oracles > 1:
        width = rule.far(found.spread, oracles, sampling=found.sampling, num_measures=num_measures)
        reason += f"; one more of them would be within ±{width:.3f}; tolerance {found.tolerance:g}"
        reason += "" if found.side == rule.Side.BOTH else f", only {found.side.value}"
    if verdict == INCONCLUSIVE:
        reason += f"; {rule.settled_by(found, num_measures)}"
    return Judgement(
        level=level, measure=measure, value=found.difference, low=low, high=high, limit=found.tolerance,
        verdict=verdict, reason=reason, comparison=found, what=what,
    )  # fmt: skip


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
    """All judgements, one verdict a level (which includes the levels below it), and the overall one.

    Keys:
        sentences: of each level, for people.
        precondition: whether the full model knew the class; nothing is judged where it did not.
    """

    overall: str
    levels: dict[str, str]
    sentences: dict[str, str]
    precondition: dict[str, Any]
    measures: list[dict[str, Any]]


def summarise(judgements: Iterable[Judgement], learned: Learned | None = None) -> Verdict:
    """Sum up, as plain JSON."""
    found = _settled(list(judgements))
    is_known = learned is None or learned.is_known
    levels = {
        level: worst(entry.verdict for entry in found if entry.level in LEVELS[: number + 1])
        for number, level in enumerate(LEVELS)
        if level != LEVELS[-1] or any(entry.level == level for entry in found)  # which few models claim
    }
    overall = worst(entry.verdict for entry in found)
    if not is_known:
        levels, overall = dict.fromkeys(levels, INCONCLUSIVE), INCONCLUSIVE
    return {
        "overall": overall,
        "levels": levels,
        "sentences": {
            level: SENTENCES[level][verdict] if is_known else NEVER_LEARNED for level, verdict in levels.items()
        },
        "precondition": {} if learned is None else
        {**asdict(learned), "is_known": learned.is_known, "reason": learned.reason},
        "measures": [_plain(entry) for entry in found],
    }  # fmt: skip


def _settled(found: Sequence[Judgement]) -> list[Judgement]:
    """The same, each comparison judged as one of so many of its level, or settled by equality."""
    is_equal = any(entry.settles for entry in found)
    counts = {level: sum(e.level == level and e.comparison is not None for e in found) for level in LEVELS}
    settled = []
    for entry in found:
        if entry.comparison is not None and counts[entry.level] > 1:
            entry = by_rule(entry.level, entry.measure, entry.comparison, entry.what, counts[entry.level])
        if entry.comparison is not None and is_equal:
            entry = replace(entry, verdict=PASS, reason=f"{entry.reason}; {EQUAL}")
        settled.append(entry)
    return settled


def _plain(entry: Judgement) -> dict[str, Any]:
    plain = asdict(entry)
    if entry.comparison is None:
        del plain["comparison"]
    del plain["what"], plain["settles"]  # the reason starts with the former, and says the latter
    return plain
