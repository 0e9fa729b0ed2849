"""Where the samples of a removed class go, and how sure the model is of it: each class removed in turn.

Letters: C classes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pfm.classes import UNKNOWN
from pfm.evaluation.served import ServedAnswers
from pfm.storage import Json

SURE = 0.9  # an answer of this probability or more is called sure


@dataclass(frozen=True, kw_only=True)
class Destinations:
    """Test samples of one class, before and after it is removed; shares in [0, 1].

    Attributes:
        answers_before, answers_after: share of the samples by answer, the most frequent first.
        sureness_before, sureness_after: mean probability of the answer given.
        sure_before, sure_after: share of samples answered with a class, not `unknown`, at a probability of 0.9 or more.
    """

    name: str
    num_samples: int
    answers_before: dict[str, float]
    answers_after: dict[str, float]
    sureness_before: float
    sureness_after: float
    sure_before: float
    sure_after: float


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Each class removed in turn.

    Attributes:
        classes: of those that have test samples.
        left_out: names of the others.
    """

    classes: list[Destinations]
    left_out: list[str]

    def to_dict(self) -> Json:
        """For JSON."""
        return {"sure": SURE, **dataclasses.asdict(self)}


def measure_removal(served: ServedAnswers, names: Sequence[str]) -> Removal:
    """Where the samples of every class go.

    Args:
        names: of the classes, in the order of the bank.
    """
    labels = served.labels.numpy()
    found, left_out = [], []
    for position, name in enumerate(names):
        own = labels == position
        if not own.any():
            left_out.append(name)
            continue
        before, after = served.answers.numpy()[own], served.without_own.numpy()[own]
        sureness, sureness_after = served.sureness.numpy()[own], served.sureness_without_own.numpy()[own]
        found.append(
            Destinations(
                name=name,
                num_samples=int(own.sum()),
                answers_before=_shares(before, names),
                answers_after=_shares(after, names),
                sureness_before=float(sureness.mean()),
                sureness_after=float(sureness_after.mean()),
                sure_before=float(((before >= 0) & (sureness >= SURE)).mean()),
                sure_after=float(((after >= 0) & (sureness_after >= SURE)).mean()),
            )
        )
    return Removal(classes=found, left_out=left_out)


def _shares(answers: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    values, counts = np.unique(answers, return_counts=True)
    shares = {int(values[i]): float(counts[i] / len(answers)) for i in np.argsort(-counts, kind="stable")}
    return {names[position] if position >= 0 else UNKNOWN: share for position, share in shares.items()}
