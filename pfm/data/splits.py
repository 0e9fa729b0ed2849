"""A data set as everything else sees it: what is asked for, and the splits that come of it.

Whatever the source, the result is the same: inputs as stored and labels per split, and named classes.
`pfm.data.loading` finds the source.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pfm.classes import ClassList, split_names
from pfm.data.file_names import PREFIX, NamePattern
from pfm.errors import ConfigError, DataError
from pfm.options import option

MEDMNIST_SIZES = (28, 64, 128, 224)
HOLD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and where it lies."""

    dataset: str = option(
        "bloodmnist",
        "A MedMNIST name, a path to an .npz in MedMNIST's layout, imagefolder:PATH, audiofolder:PATH, "
        "a Hugging Face data set (name or local folder), or digits.",
    )
    data_type: str = option("image", "Kind of input; audiofolder:PATH is audio anyway.", choices=("image", "audio"))
    data_dir: str | None = option(None, "Folder of MedMNIST's .npz files.  [default: ~/.medmnist]")
    size: int = option(224, "Resolution of the MedMNIST files: 28, 64, 128 or 224.")
    class_names: str = option("", "Names of the classes, in order, separated by commas, where the data has none.")
    input_column: str = option("", "Column of the inputs in a Hugging Face data set.  [default: found by its type]")
    label_column: str = option("", "Column of the labels in a Hugging Face data set.  [default: found by its type]")
    label_from: str = option(
        "",
        "Take the label from the file's name: name:PATTERN with fields in braces, such as "
        "'name:{digit}_{speaker}_{n}'; --label says which.  [default: the label column, or the folder]",
    )
    label: str = option("", "Field of --label_from that is the label.")
    max_seconds: float = option(30.0, "What of a longer clip is read, in seconds (audio).", minimum=0.025)
    skip_bad: bool = option(False, "Leave out files that cannot be read, and count them, instead of stopping.")

    def __post_init__(self) -> None:
        if self.size not in MEDMNIST_SIZES:
            raise ConfigError(f"--size {self.size} is no MedMNIST resolution; choose 28, 64, 128 or 224")
        if self.label_from and not self.label_from.startswith(PREFIX):
            raise ConfigError(f"--label_from {self.label_from!r} is no pattern; give {PREFIX}PATTERN, or leave it out")
        if bool(self.label_from) != bool(self.label):
            raise ConfigError("--label_from and --label go together: the pattern, and which of its fields is the label")
        if self.label_from:
            _ = self.name_pattern
        if self.data_type == "audio" and self.dataset.startswith("imagefolder:"):
            raise ConfigError(f"--data_type audio, but --dataset {self.dataset} holds images; use audiofolder:PATH")

    @property
    def is_audio(self) -> bool:
        """Whether the inputs are sounds."""
        return self.data_type == "audio" or self.dataset.startswith("audiofolder:")

    @property
    def name_pattern(self) -> NamePattern | None:
        """How labels are read off file names, if they are."""
        return NamePattern(self.label_from.removeprefix(PREFIX), self.label) if self.label_from else None

    @property
    def short_name(self) -> str:
        """The data set's name as it stands in file names; with --label_from, behind it the field that is the label."""
        path = self.dataset.removeprefix("imagefolder:").removeprefix("audiofolder:")
        if self.dataset == path and not looks_like_path(path):
            name = path.replace("/", "_")
        else:
            name = Path(path).resolve().name.removesuffix(".npz")
        return f"{name}_{self.label}" if self.label else name


@dataclass(frozen=True)
class Split:
    """Inputs as stored and labels (N,) int64, labels counted from 0.

    Attributes:
        inputs: images (N, C, H, W) uint8, or log-mel features (N, F, M) float32 (see `pfm.data.sounds`).
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, index: torch.Tensor) -> "Split":
        return Split(self.inputs[index], self.labels[index])


@dataclass(frozen=True)
class ClassificationData:
    """A data set, loaded.

    Attributes:
        name: as it stands in file names.
        classes: names in the order of the labels.
        train, test: what is trained and measured on.
        val: a validation split where the source has one and it is not trained on.
        notes: what a user should know of how the splits came about.
    """

    name: str
    classes: ClassList
    train: Split
    test: Split
    val: Split | None = None
    notes: tuple[str, ...] = ()

    def splits(self) -> Iterator[tuple[str, Split]]:
        yield "train", self.train
        if self.val is not None:
            yield "val", self.val
        yield "test", self.test

    def describe(self) -> str:
        """Splits, classes and counts as a table for people."""
        splits = list(self.splits())
        width = max(5, *(len(name) for name in self.classes.names))
        lines = [f"data set {self.name}: {len(self.classes)} classes, {self._describe_inputs()}"]
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  " + "class".ljust(width + 5) + "".join(name.rjust(8) for name, _ in splits))
        counts = [torch.bincount(split.labels, minlength=len(self.classes)).tolist() for _, split in splits]
        for position, (number, name) in enumerate(zip(self.classes.ids, self.classes.names, strict=True)):
            lines.append(f"  {number:>3}  {name.ljust(width)}" + "".join(f"{count[position]:8d}" for count in counts))
        lines.append("  " + "total".ljust(width + 5) + "".join(f"{len(split):8d}" for _, split in splits))
        return "\n".join(lines)

    def _describe_inputs(self) -> str:
        shape = self.train.inputs.shape[1:]
        if len(shape) == 2:
            return f"sounds of up to {shape[0]} frames of {shape[1]} mel bins"
        return f"images {'x'.join(str(side) for side in reversed(shape))}"


def looks_like_path(name: str) -> bool:
    return name.endswith(".npz") or name.startswith((".", "/", "~")) or Path(name).exists()


def check_labels(data: ClassificationData) -> None:
    for split_name, split in data.splits():
        if len(split) != len(split.inputs):
            raise DataError(f"{data.name}: {len(split.inputs)} {split_name} images but {len(split)} labels")
        if len(split) == 0:
            raise DataError(f"{data.name}: the {split_name} split is empty")
    num_classes = len(data.classes)
    if num_classes < 2:
        raise DataError(f"{data.name} has {num_classes} class; at least two are needed")
    for split_name, split in data.splits():
        low, high = int(split.labels.min()), int(split.labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(
                f"{data.name}: the {split_name} labels run from {low} to {high}, "
                f"but there are {num_classes} classes (0 to {num_classes - 1})"
            )
    missing = sorted(set(range(num_classes)) - set(data.train.labels.unique().tolist()))
    if missing:
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


def hold_out(split: Split, what: str) -> tuple[Split, Split, str]:
    """Part of `split`, each class in proportion, for the test; the same part every time."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            np.arange(len(split)), test_size=HOLD_OUT, random_state=0, stratify=split.labels.numpy()
        )
    except ValueError as error:
        raise DataError(f"{what} has no test split and is too small to hold one out: {error}") from error
    note = f"no test split in the source: {HOLD_OUT:.0%} of each class held out for the test"
    return split.subset(torch.from_numpy(np.sort(train))), split.subset(torch.from_numpy(np.sort(test))), note


def first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
