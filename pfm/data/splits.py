"""A data set as everything else sees it: splits of inputs as stored and labels, and named classes; what is held out.

Whatever the source, the result is the same; `pfm.data.loading` finds the source.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch

from pfm.classes import ClassList, listed, split_names
from pfm.data.config import DataConfig
from pfm.data.contents import content_of
from pfm.data.inputs import Storage
from pfm.data.reading import Intake
from pfm.data.rows import join_rows, subset_rows
from pfm.errors import DataError
from pfm.seeds import make_generator

TEST_SHARE = 0.2  # of each class, where the source has no test split
THRESHOLD_SHARE = 0.1  # of each class's training samples, where there is no validation split


@dataclass(frozen=True)
class Split:
    """Inputs as stored and labels (N,) int64, labels counted from 0.

    Attributes:
        inputs: images (N, C, H, W) uint8, or log-mel features (N, F, M) float32 (see `pfm.data.sounds`).
        groups: of each sample, what it belongs to beside its class, such as a patient or a speaker; None where
            nothing is known of it.
        names: of each sample, where it came from, relative to the data set: a file, or a row of one. The same name
            whenever the same data is read; None where the source has none.
        contents: SHA-256 of each sample as its source has it; None where `content` is to look.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    groups: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    contents: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: torch.Tensor) -> "Split":
        """The samples at these places (n,) int64."""
        places = index.tolist()
        groups, names = _picked(self.groups, places), _picked(self.names, places)
        contents = _picked(self.contents, places)
        return Split(subset_rows(self.inputs, index), self.labels[index], groups, names, contents)

    def relabelled(self, new: torch.Tensor) -> "Split":
        """With the new label (C,) of each old one; samples whose label becomes -1 are left out."""
        labels = new[self.labels]
        rest = self.subset((labels >= 0).nonzero()[:, 0])
        return replace(rest, labels=labels[labels >= 0])

    def followed_by(self, other: "Split") -> "Split":
        """The samples of both."""
        return Split(
            join_rows([self.inputs, other.inputs]),
            torch.cat([self.labels, other.labels]),
            None if self.groups is None or other.groups is None else self.groups + other.groups,
            None if self.names is None or other.names is None else self.names + other.names,
            None if self.contents is None or other.contents is None else self.contents + other.contents,
        )

    def content(self, place: int) -> bytes:
        """SHA-256 of a sample as its source has it.

        Raises:
            DataError: its file cannot be read any more.
        """
        return content_of(self.inputs, place) if self.contents is None else self.contents[place]

    def first_contents(self, label: int, count: int) -> list[bytes]:
        """SHA-256 of the first samples of a class, at most so many; no other file is read.

        Raises:
            DataError: a file cannot be read any more.
        """
        places = (self.labels == label).nonzero()[:count, 0].tolist()
        return [self.content(place) for place in places]

    def with_contents(self) -> "Split":
        """The same with every sample looked at, so that whatever is done with the inputs changes no digest.

        Raises:
            DataError: a file cannot be read any more.
        """
        return replace(self, contents=tuple(self.content(place) for place in range(len(self))))


Value = TypeVar("Value")


def _picked(values: tuple[Value, ...] | None, places: list[int]) -> tuple[Value, ...] | None:
    return None if values is None else tuple(values[place] for place in places)


@dataclass(frozen=True)
class ClassificationData:
    """A data set, loaded.

    Attributes:
        name: as it stands in file names.
        classes: names in the order of the labels.
        train, test: what is trained and measured on.
        val: a validation split where the source has one and it is not trained on.
        notes: what a user should know of how the splits came about.
        storage: how the inputs are stored, with nothing left open; None for data made by hand.
        commit: of the hub's repository that it is from; "" where it is from elsewhere, or that is not known.
    """

    name: str
    classes: ClassList
    train: Split
    test: Split
    val: Split | None = None
    notes: tuple[str, ...] = ()
    storage: Storage | None = None
    commit: str = ""

    def splits(self) -> Iterator[tuple[str, Split]]:
        yield "train", self.train
        if self.val is not None:
            yield "val", self.val
        yield "test", self.test

    def describe(self, storage: Storage) -> str:
        """Splits, classes and counts as a table for people."""
        splits = list(self.splits())
        width = max(5, *(len(name) for name in self.classes.names))
        inputs = storage.describe(self.train.inputs.shape[1:])
        lines = [f"data set {self.name}: {len(self.classes)} classes, {inputs}"]
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  " + "class".ljust(width + 5) + "".join(name.rjust(8) for name, _ in splits))
        counts = [torch.bincount(split.labels, minlength=len(self.classes)).tolist() for _, split in splits]
        for position, (number, name) in enumerate(zip(self.classes.ids, self.classes.names, strict=True)):
            lines.append(f"  {number:>3}  {name.ljust(width)}" + "".join(f"{count[position]:8d}" for count in counts))
        lines.append("  " + "total".ljust(width + 5) + "".join(f"{len(split):8d}" for _, split in splits))
        if all(split.groups is not None for _, split in splits):
            groups = [len(set(split.groups or ())) for _, split in splits]
            lines.append("  " + "groups".ljust(width + 5) + "".join(f"{number:8d}" for number in groups))
        return "\n".join(lines)


def check_class_count(data_name: str, names: Sequence[str], intake: Intake, hint: str = "") -> None:
    """Refuse data of too few classes.

    Args:
        names: of the classes.
        hint: behind the message, what has gone wrong by the look of it.

    Raises:
        DataError: there are fewer than two; one is enough for a part of other data, unless there is a hint.
    """
    if len(names) < (1 if intake.is_part and not hint else 2):
        raise DataError(f"{data_name} has {len(names)} class ({listed(names)}); at least two are needed{hint}")


def check_labels(data: ClassificationData, intake: Intake) -> None:
    """Refuse data whose inputs, labels and classes do not fit together.

    Raises:
        DataError: why.
    """
    for split_name, split in data.splits():
        if len(split) != len(split.inputs):
            raise DataError(f"{data.name}: {len(split.inputs)} {split_name} images but {len(split)} labels")
        if len(split) == 0:
            raise DataError(f"{data.name}: the {split_name} split is empty")
    num_classes = len(data.classes)
    check_class_count(data.name, data.classes.names, intake)
    for split_name, split in data.splits():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{data.name}: the {split_name} labels run from {low} to {high}, "
                f"but there are {num_classes} classes (0 to {num_classes - 1})"
            )
    missing = sorted(set(range(num_classes)) - set(data.train.labels.unique().tolist()))
    if missing and not intake.is_part:
        raise DataError(
            f"{data.name}: no training image of class {_shortened([data.classes.names[i] for i in missing])}; "
            "every class needs some"
        )


def _shortened(names: list[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def class_list(config: DataConfig, found: list[str]) -> ClassList:
    """The names from `--class_names`, or those the data came with."""
    if not config.class_names:
        return ClassList.from_names(found)
    given = split_names(config.class_names)
    if len(given) != len(found):
        raise DataError(f"--class_names gives {len(given)} names, but the data has {len(found)} classes")
    return ClassList.from_names(given)


def split_off_test(split: Split, what: str, names: Sequence[str] = ()) -> tuple[Split, Split, str]:
    """Part of `split`, each class in proportion and no group divided, for the test; the same part every time.

    Args:
        what: to call the data in an error.
        names: of the classes, for errors and notes.

    Returns:
        What is left for training, the test split, and a note.

    Raises:
        DataError: too few samples, or a class that is all in one group.
    """
    if split.groups is not None:
        is_held, note = whole_groups(split, TEST_SHARE, f"{what} has no test split", names)
        note = f"no test split in the source: {note} held out for the test"
        return split.subset((~is_held).nonzero()[:, 0]), split.subset(is_held.nonzero()[:, 0]), note
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            np.arange(len(split)), test_size=TEST_SHARE, random_state=0, stratify=split.labels.numpy()
        )
    except ValueError as error:
        raise DataError(
            f"{what} has no test split and is too small to hold one out: {_too_few(split, names)}"
        ) from error
    note = f"no test split in the source: {TEST_SHARE:.0%} of each class held out for the test"
    return split.subset(torch.from_numpy(np.sort(train))), split.subset(torch.from_numpy(np.sort(test))), note


def _too_few(split: Split, names: Sequence[str]) -> str:
    """Of what there are too few samples to hold some out, and what to do."""
    numbers, counts = np.unique(split.labels.numpy(), return_counts=True)
    alone = [names[number] if names else str(number) for number in numbers[counts < 2]]
    what = (
        f"class {alone[0]} has one sample"
        if alone
        else f"{TEST_SHARE:.0%} of {len(split)} samples are less than one of each class"
    )
    return f"{what}; give more, or a test split of your own"


def hold_out_for_threshold(data: ClassificationData, abstain: float) -> ClassificationData:
    """The data with something to choose a threshold on, if one is to be chosen (see `pfm.model.abstention`).

    A validation split stays as it is. Otherwise a tenth of each class's training samples becomes one; the same
    samples whatever the run's seed.

    Args:
        abstain: share of the answers to give up; 0 for no threshold.

    Raises:
        DataError: no class has ten training samples.
    """
    if abstain == 0 or data.val is not None:
        return data
    if data.train.groups is not None:
        is_held, note = whole_groups(
            data.train, THRESHOLD_SHARE, "--abstain needs held-out samples", data.classes.names
        )
        return _held_out(data, is_held, f"--abstain: {note} held out to choose a threshold on")
    labels = data.train.labels
    order = torch.randperm(len(labels), generator=make_generator("held out", len(labels)))
    rank = torch.empty_like(labels)  # of a sample within its class, in the drawn order
    for label in labels.unique():
        members = order[labels[order] == label]
        rank[members] = torch.arange(len(members))
    counts = torch.bincount(labels)[labels]
    is_held = rank < (counts * THRESHOLD_SHARE).long()
    if not is_held.any():
        raise DataError(
            "--abstain needs held-out samples, and there is neither a validation split nor a class with ten training "
            "samples; give more data or leave --abstain out"
        )
    return _held_out(
        data, is_held, f"--abstain: {int(is_held.sum())} training samples are held out to choose a threshold on"
    )


def whole_groups(split: Split, share: float, what: str, names: Sequence[str]) -> tuple[torch.Tensor, str]:
    """Samples to hold out, about a share of each class, so that no group is divided; the same ones every time.

    Args:
        what: for what, to open an error with.
        names: of the classes.

    Returns:
        Which ones (N,) bool, and how many of what, for a note.

    Raises:
        DataError: a class would be left without training samples.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    assert split.groups is not None
    labels, count = split.labels.numpy(), round(1 / share)
    if len(set(split.groups)) < 2:
        raise DataError(f"{what}, and all samples are of one group, which cannot be divided")
    folds = StratifiedGroupKFold(n_splits=min(count, len(set(split.groups))), shuffle=True, random_state=0)
    best: tuple[int, ...] = ()
    is_held = np.zeros(len(labels), dtype=bool)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer samples than folds
        for rest, held in folds.split(np.zeros(len(labels)), labels, np.array(split.groups)):
            # best: no class lost for training, then none without a held-out sample, then nearest to the share
            found = (len(set(labels[rest])), len(set(labels[held])), -abs(len(held) - round(share * len(labels))))
            if found > best:
                best = found
                is_held[:] = False
                is_held[held] = True
    every = set(labels.tolist())
    lost = sorted(every - set(labels[~is_held].tolist()))
    if lost:
        raise DataError(
            f"{what}, and class {_called(lost, names)} is all in groups that would be held out; give a split of your "
            "own, or leave --group out"
        )
    num_held = len({group for group, held in zip(split.groups, is_held, strict=True) if held})
    note = (
        f"{num_held:,} of {len(set(split.groups)):,} whole groups, {int(is_held.sum()):,} of {len(labels):,} samples,"
    )
    without = sorted(every - set(labels[is_held].tolist()))
    if without:
        note += f" none of class {_called(without, names)},"
    return torch.from_numpy(is_held), note


def _called(labels: list[int], names: Sequence[str]) -> str:
    return _shortened([names[label] if names else str(label) for label in labels])


def _held_out(data: ClassificationData, is_held: torch.Tensor, note: str) -> ClassificationData:
    """The data with those training samples for validation."""
    return replace(
        data,
        train=data.train.subset((~is_held).nonzero()[:, 0]),
        val=data.train.subset(is_held.nonzero()[:, 0]),
        notes=(*data.notes, note),
    )
