"""What the served bundles answered before and after a class was erased: some inputs to show, all of them counted."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pfm.data.kinds import KINDS
from pfm.data.splits import ClassificationData
from pfm.storage import Json
from pfm_bench.demo.story import Answers
from pfm_bench.demo.task import Task

SHOWN = 4  # inputs of the erased class, and as many of others


@dataclass(frozen=True, kw_only=True)
class ShownInput:
    """One test input.

    Attributes:
        index: in the test split.
        truth: its class.
        answers: by readout, with the class there and erased.
    """

    index: int
    truth: str
    answers: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Group:
    """The test inputs of the erased class, or those of all others.

    Attributes:
        size: how many there are.
        right: by readout, the share in [0, 1] that was answered rightly, with the class there and erased.
        shown: a few of them, spread over the group.
    """

    size: int
    right: Mapping[str, tuple[float, float]]
    shown: tuple[ShownInput, ...]


@dataclass(frozen=True, kw_only=True)
class ServedAnswers:
    """Both groups.

    Attributes:
        data: name of the data set.
        noun: what its inputs are called.
        times_answered: by readout, how often the class was the answer once it was out.
    """

    data: str
    noun: str
    forgotten: str
    times_answered: Mapping[str, int]
    erased: Group
    others: Group

    def to_dict(self) -> Json:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "ServedAnswers":
        """What `to_dict` made, from JSON."""
        plain = {name: stored[name] for name in ("data", "noun", "forgotten", "times_answered")}
        return cls(**plain, erased=_group_from_dict(stored["erased"]), others=_group_from_dict(stored["others"]))


def _group_from_dict(stored: Mapping[str, Any]) -> Group:
    shown = tuple(
        ShownInput(index=one["index"], truth=one["truth"], answers=_pairs(one["answers"])) for one in stored["shown"]
    )
    return Group(size=stored["size"], right=_pairs(stored["right"]), shown=shown)


def _pairs(stored: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (before, after) for name, (before, after) in stored.items()}


def collect_answers(task: Task, data: ClassificationData, answers: Mapping[str, Answers]) -> ServedAnswers:
    """From what each readout's bundle answered on the test split."""
    is_erased = data.test.labels == data.classes.position(task.forgotten)
    of_erased, of_others = is_erased.nonzero()[:, 0], (~is_erased).nonzero()[:, 0]
    return ServedAnswers(
        data=data.name,
        noun=KINDS.get(task.data.kind).storage.noun,
        forgotten=task.forgotten,
        times_answered={name: served.times_answered for name, served in answers.items()},
        erased=_group(data, answers, of_erased, of_erased[:: max(1, len(of_erased) // SHOWN)]),
        others=_group(data, answers, of_others, _first_of_each_class(data, of_others)),
    )


def _first_of_each_class(data: ClassificationData, indices: torch.Tensor) -> torch.Tensor:
    """One test input for each of a few classes, which are spread over the list."""
    labels = data.test.labels[indices]
    classes = labels.unique()
    few = classes[torch.linspace(0, len(classes) - 1, min(SHOWN, len(classes))).round().long()]
    return torch.stack([indices[labels == label][0] for label in few])


def _group(
    data: ClassificationData, answers: Mapping[str, Answers], indices: torch.Tensor, shown: torch.Tensor
) -> Group:
    truth = [data.classes.names[label] for label in data.test.labels.tolist()]
    every = indices.tolist()

    def share_right(given: list[str]) -> float:
        return sum(given[index] == truth[index] for index in every) / len(every)

    return Group(
        size=len(every),
        right={name: (share_right(served.before), share_right(served.after)) for name, served in answers.items()},
        shown=tuple(
            ShownInput(
                index=index,
                truth=truth[index],
                answers={name: (served.before[index], served.after[index]) for name, served in answers.items()},
            )
            for index in shown.tolist()[:SHOWN]
        ),
    )
