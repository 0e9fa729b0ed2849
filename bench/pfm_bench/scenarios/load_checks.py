"""Whether the answers of a server under load are right, while classes are erased, suspended and restored beside it.

What a request may see follows from when it was sent and answered, and when each change was asked for and answered: one
that was answered before the request was sent has to be seen, one that was asked for after its answer must not be, and
between the two either is right. The numbers are those of a session for exactly the classes that the answer names.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pfm_bench.scenarios.load_client import Reply


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far an answer may be from the session's.

    Attributes:
        probability: in company; on a GPU, where the size of a batch chooses the kernels, they differ more.
        tie: a label may be another one whose right probability is as close as that to the right label's.
    """

    probability: float = 1e-5
    tie: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A request that is asked again and again.

    Attributes:
        tenant: number of the token that asks.
        inputs: (1, …), as the graph takes them.
        classes: that the tenant had at the start.
        active, without: classes that are named; None where none are, and all of the tenant's count.
    """

    request: bytes
    tenant: int
    inputs: npt.NDArray[np.float32 | np.uint8]
    classes: tuple[str, ...]
    active: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()

    @property
    def named(self) -> tuple[str, ...]:
        """Classes that have to be there, or the request is refused."""
        return (*(self.active or ()), *self.without)

    @property
    def wanted(self) -> tuple[str, ...]:
        """Classes that are answered with where they are there."""
        chosen = self.classes if self.active is None else self.active
        return tuple(name for name in self.classes if name in chosen and name not in self.without)


@dataclass(kw_only=True)
class Change:
    """A class that comes or goes.

    Attributes:
        tenant: for whom; None for everybody.
        is_there: afterwards.
        asked, answered: on the clock of the requests; infinity where it was not answered yet.
    """

    name: str
    tenant: int | None
    is_there: bool
    asked: float
    answered: float = float("inf")


@dataclass(frozen=True)
class Asked:
    """A request that was sent.

    Attributes:
        sent, ended: when its bytes went out, and when its answer was there.
        due: when it should have been sent.
    """

    question: Question
    reply: Reply
    due: float
    sent: float
    ended: float


@dataclass(frozen=True)
class Answer:
    """The shares of an answer, by class in the model's order, and its label."""

    label: str
    shares: dict[str, float]


Expected = Callable[[Question, Sequence[str]], Answer | None]  # the right answer with these classes; None: not known


@dataclass
class Verdicts:
    """What became of requests.

    Attributes:
        right, wrong: answers.
        refused: requests that named a class that was gone, or had none left: not served, and rightly so.
        unjudged: of the right ones, those whose numbers nobody knows; their classes are right.
        worst: largest difference of a probability in a right answer.
        examples: of what was wrong, a few.
    """

    right: int = 0
    wrong: int = 0
    refused: int = 0
    unjudged: int = 0
    worst: float = 0.0
    examples: list[str] = field(default_factory=list)


class Judge:
    """Compares answers with what they should be.

    Args:
        changes: everything that was changed, in order; of one class one after the other.
        expected: the right answer.
        tolerance: how far from it an answer may be.
    """

    def __init__(self, changes: Sequence[Change], expected: Expected, tolerance: Tolerance | None = None) -> None:
        self._changes = changes
        self._expected = expected
        self._tolerance = tolerance or Tolerance()
        self._known: dict[tuple[Question, bytes], tuple[Answer, float | None]] = {}

    def of(self, asked: Sequence[Asked]) -> Verdicts:
        """Of all requests that were answered, by 200 or 400."""
        found = Verdicts()
        for each in asked:
            if each.reply.status == 400 and self._may_be_refused(each):
                found.refused += 1
            elif each.reply.status == 200:
                self._judge(each, found)
        return found

    def _judge(self, asked: Asked, found: Verdicts) -> None:
        key = (asked.question, asked.reply.body)
        if key not in self._known:
            answer = read_answer(asked.reply)
            right = self._expected(asked.question, tuple(answer.shares))
            self._known[key] = (answer, difference(answer, right, tie=self._tolerance.tie))
        answer, off = self._known[key]
        if (off is not None and off > self._tolerance.probability) or not self._has_right_classes(asked, answer):
            found.wrong += 1
            if len(found.examples) < 5:
                found.examples.append(f"{asked.question.named}: {answer.label} of {list(answer.shares)}, off by {off}")
            return
        found.right += 1
        found.unjudged += off is None
        found.worst = max(found.worst, off or 0.0)

    def _states(self, asked: Asked, name: str) -> set[bool]:
        """Whether a class may have been there, and may not."""
        found = {True}
        for change in self._changes:
            if change.name != name or change.tenant not in (None, asked.question.tenant):
                continue
            if change.asked > asked.ended:
                break
            found = {change.is_there} if change.answered < asked.sent else found | {change.is_there}
        return found

    def _has_right_classes(self, asked: Asked, answer: Answer) -> bool:
        question = asked.question
        if not set(answer.shares) <= set(question.wanted):
            return False
        if any(True not in self._states(asked, name) for name in question.named):
            return False
        if question.active is not None:  # one of them gone, it would have been refused
            return tuple(answer.shares) == question.wanted
        return all((name in answer.shares) in self._states(asked, name) for name in question.wanted)

    def _may_be_refused(self, asked: Asked) -> bool:
        question = asked.question
        is_one_gone = any(False in self._states(asked, name) for name in question.named)
        return is_one_gone or all(False in self._states(asked, name) for name in question.wanted)


def difference(answer: Answer, right: Answer | None, *, tie: float = 0.0) -> float | None:
    """Largest difference of a probability, infinite where the label or the classes are others; None: not known.

    Args:
        tie: see `Tolerance`.
    """
    if right is None:
        return None
    if answer.shares.keys() != right.shares.keys():
        return float("inf")
    if answer.label != right.label and not 0 <= right.shares[right.label] - right.shares[answer.label] < tie:
        return float("inf")
    return max((abs(share - right.shares[name]) for name, share in answer.shares.items()), default=0.0)


def read_answer(reply: Reply) -> Answer:
    """An answer with binary tensors."""
    found: dict[str, bytes] = {}
    place = reply.json_length or 0
    for output in json.loads(reply.body[:place])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = reply.body[place : place + size]
        place += size
    (label,) = _texts(found["labels"])
    shares = np.frombuffer(found["probabilities"], "<f4").tolist()
    return Answer(label, dict(zip(_texts(found["classes"]), shares, strict=True)))


def _texts(raw: bytes) -> list[str]:
    found: list[str] = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "little")
        found.append(raw[4:size].decode())
        raw = raw[size:]
    return found
