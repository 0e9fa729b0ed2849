"""A question's active set and its answer: which classes may be answered, and from scores to labels and probabilities.

Letters: B batch, n items that are classified, K active classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pfm.classes import UNKNOWN, ClassKeys, ClassList, class_keys, listed
from pfm.errors import ClassNameError
from pfm_export.serving.bank import Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import Manifest

MOST_KEPT = 1024  # active sets of a bundle whose positions are kept


@dataclass(frozen=True)
class ActiveSet:
    """Which classes one request may be answered with.

    Attributes:
        active: names (strings) or numbers (ints) of the classes to choose from; default all that the profile leaves.
        without: classes to leave out of them.
        profile: whose suspended classes are left out; default the profile "default", if there is one.
        exact: answer with weights solved for this set alone; of an exact readout whose bundle has its sums.
    """

    active: tuple[str | int, ...] | None = None
    without: tuple[str | int, ...] = ()
    profile: str | None = None
    exact: bool = False

    def __hash__(self) -> int:
        """Asked for several times for each row of a pass; kept, but not where it is pickled: texts hash otherwise."""
        kept: int | None = self.__dict__.get("_hash")
        if kept is None:
            kept = hash((self.active, self.without, self.profile, self.exact))
            object.__setattr__(self, "_hash", kept)
        return kept

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}

    def __post_init__(self) -> None:
        if self.active is not None:
            object.__setattr__(self, "active", class_keys(self.active))  # a bare string is one class
        object.__setattr__(self, "without", class_keys(self.without))

    @classmethod
    def of(
        cls,
        active: ClassKeys | None = None,
        without: ClassKeys = (),
        profile: str | None = None,
        *,
        exact: bool = False,
    ) -> "ActiveSet":
        return cls(None if active is None else class_keys(active), class_keys(without), profile, exact)

    def positions(self, bundle: Bundle) -> tuple[int, ...]:
        """Positions in the bundle, ascending.

        Raises:
            ClassNameError: an unknown, erased or suspended class was named, or none is left.
        """
        kept = bundle.positions_of
        found = kept.get(self)
        if found is None:
            if len(kept) >= MOST_KEPT:
                kept.clear()
            found = kept[self] = self.positions_among(bundle.classes, bundle.suspended(self.profile))
        return found

    def is_answered_alike(self, before: Bundle, now: Bundle) -> bool:
        """Whether two states of a bundle answer it with the same numbers; False too where that is not known.

        Raises:
            ClassNameError: as `positions`.
        """
        if before is now:
            return True
        if before.exact is not None or before.bank_sha256 != now.bank_sha256:
            return False
        one, other = ([bundle.classes.ids[p] for p in self.positions(bundle)] for bundle in (before, now))
        return one == other

    def positions_among(self, classes: ClassList, suspended: Iterable[int] = ()) -> tuple[int, ...]:
        """Positions in `classes`, ascending, of those that are not suspended; else as `positions`."""
        suspended = frozenset(suspended)
        chosen = list(range(len(classes))) if self.active is None else classes.positions(self.active)
        stopped = [classes.names[p] for p in chosen if p in suspended]
        if self.active is not None and stopped:
            raise ClassNameError(f"suspended in profile {self.profile or 'default'!r}: {listed(stopped)}")
        away = {*suspended, *classes.positions(self.without)}
        if len(away) == len(classes):
            raise ClassNameError("every class is left out; leave at least one active")
        left = tuple(position for position in chosen if position not in away)
        if not left:
            raise ClassNameError("no class is active; name at least one")
        return left


@dataclass(frozen=True)
class Prediction:
    """Answers for a batch.

    Attributes:
        labels: name of the winning class of each input; "unknown" where the model has that answer.
        classes: names of the active classes, the columns of `probabilities`.
        probabilities: (B, K), over the active classes; a row sums to less than 1 by the share of "unknown".
        is_exact: whether they come of weights solved for these classes alone, as if there had been no others; False
            where they are rows of a solution for more classes; None of readouts that are not solved.
    """

    labels: list[str]
    classes: tuple[str, ...]
    probabilities: Floats
    is_exact: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """When a model answers `unknown`.

    Attributes:
        score: that competes with the classes' scores; None where there is none.
        below: largest probability under which it is the answer; 0 where there is no such threshold.
    """

    score: float | None = None
    below: float = 0.0

    @classmethod
    def of(cls, stated: Manifest) -> "Unknown":
        """As a bundle's manifest states it."""
        return cls(score=stated.unknown_score, below=stated.unknown_below)


def answers_of(
    classes: ClassList, active: Sequence[int], scores: Floats, unknown: Unknown, is_exact: bool | None = None
) -> Prediction:
    """From scores (n, K) of the classes at the positions `active`."""
    names = tuple(classes.names[p] for p in active)
    if unknown.score is not None:
        scores = np.concatenate([scores, np.full((len(scores), 1), unknown.score, scores.dtype)], axis=1)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    answers = (*names, UNKNOWN)
    winners = scores.argmax(axis=1)
    if unknown.below:
        winners = np.where(probabilities.max(axis=1) < unknown.below, len(names), winners)
    labels = [answers[int(winner)] for winner in winners]
    return Prediction(labels, names, probabilities[:, : len(names)], is_exact)


def answers_of_each(
    classes: ClassList,
    actives: Sequence[tuple[int, ...]],
    rows: Sequence[Floats],
    unknown: Unknown,
    are_exact: Sequence[bool | None],
) -> list[Prediction]:
    """The same of single items, each from its scores (K,) of the classes of its own, all in one go."""
    most = max(map(len, rows))
    scores = np.full((len(rows), most + (unknown.score is not None)), -np.inf, np.float32)  # of no class: share 0
    for padded, row in zip(scores, rows, strict=True):
        padded[: len(row)] = row
    if unknown.score is not None:
        scores[:, most] = unknown.score
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    winners = scores.argmax(axis=1)
    if unknown.below:
        winners = np.where(probabilities.max(axis=1) < unknown.below, most, winners)
    names = {active: tuple(classes.names[p] for p in active) for active in dict.fromkeys(actives)}
    found: list[Prediction] = []
    chosen: list[int] = winners.tolist()
    for place, (active, winner, is_exact) in enumerate(zip(actives, chosen, are_exact, strict=True)):
        label = UNKNOWN if winner == most else names[active][winner]
        found.append(Prediction([label], names[active], probabilities[place : place + 1, : len(active)], is_exact))
    return found
