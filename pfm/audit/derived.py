"""What *derivable* found of a class, as it stands in a report; see `pfm.audit.attacks.derivable`."""

from typing import TypedDict


class Back(TypedDict):
    """How far the class came back, in [0, 1]: accuracy on it, on the others, and their mean."""

    selective: float
    forget: float
    retain: float


class Way(Back):
    """One formula's candidate."""

    way: str


class Random(TypedDict):
    """Of rounds of prompts drawn at random, one in place of each formula.

    Keys:
        draws: how many prompts that are.
        selective, forget: means over all of them.
        best, low, high: selective accuracy of the best of each round: the mean, and the middle 95 %.
    """

    rounds: int
    draws: int
    selective: float
    forget: float
    best: float
    low: float
    high: float


class IdeaBack(TypedDict):
    """One idea of a formula beside random prompts; it tells something where `as_good` is 0. See `pfm.audit.by_chance`.

    Keys:
        way: its best candidate, and how far that brings the class back (`selective`).
        num_ways: its variants.
        rounds: that were drawn for it.
        as_good: of these, how many did as well as its best candidate.
        best_random: of all of them.
    """

    idea: str
    way: str
    selective: float
    num_ways: int
    rounds: int
    as_good: int
    best_random: float


class Key(TypedDict):
    """The formula whose prompt is most like the class's own, and how much; see `pfm.audit.derivable.nearest`."""

    way: str
    cosine: float


class ByFormula(TypedDict):
    """One class's figures, of what formulas give.

    Keys:
        start: of the judged model's prompts, as its file states it.
        seed_found: the small seed that the surviving prompts are most like, and their mean cosine to its prompts.
        key: what comes closest to the class's own prompt.
        full: with the class's own prompt and row.
        formulas: the best first.
        ideas: each beside random prompts, the best first.
        retrained: the best formula in each model that was retrained without the class; none where there is none.
    """

    name: str
    start: str
    seed_found: int
    seed_match: float
    key: Key
    full: Back
    random: Random
    formulas: list[Way]
    ideas: list[IdeaBack]
    retrained: list[Way]


class Derived(ByFormula):
    """The same, and what is learned without data, by the inputs it was learned on; means over the attack seeds."""

    learned: dict[str, Back]
