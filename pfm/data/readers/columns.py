"""Columns of a table of Hugging Face `datasets`: which one holds the inputs, which the labels, and their numbers."""

from collections.abc import Mapping
from typing import Any

import torch

from pfm.data.config import DataConfig
from pfm.data.file_names import sorted_names
from pfm.data.inputs import Storage
from pfm.errors import DataError


def input_column(features: Any, name: str, config: DataConfig, storage: Storage) -> str:
    """The column of the inputs: the one the user named, or the only one of its type.

    Args:
        features: the columns of the training split, with their types.
        name: of the data set, for errors.

    Raises:
        DataError: none, several, or another type.
    """
    import datasets

    wanted = getattr(datasets, storage.column_type)
    found = [key for key, feature in features.items() if isinstance(feature, wanted)]
    column = config.input_column or _only(found, features, name, storage.kind, "--input_column")
    _check_column(column, features, name)
    if not isinstance(features[column], wanted):
        raise DataError(f"{name}: column {column!r} holds no {storage.noun}; name another with --input_column")
    return column


def numbered_labels(
    parts: Mapping[str, Any], what: Mapping[str, str], column: str, name: str, config: DataConfig
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Numbers of the labels of each split, (N,) int64, and the names of the classes.

    Args:
        parts: the table of each split.
        what: to call each split in an error.
        column: of the inputs, whose files may have the labels in their names.
        name: of the data set, for errors.

    Raises:
        DataError: no labels, or some that do not fit together.
    """
    pattern = config.name_pattern
    if pattern is not None:
        texts = {role: pattern.labels(paths(part, column)) for role, part in parts.items()}
        names = sorted_names(set(texts["train"]))
        index = {text: number for number, text in enumerate(names)}
        return {role: _numbered(values, index, what[role]) for role, values in texts.items()}, names
    features = parts["train"].features
    label = config.label_column or _only(_label_columns(features), features, name, "label", "--label_column")
    _check_column(label, features, name)
    dtype = getattr(features[label], "dtype", "")  # of a ClassLabel: int64
    if not dtype.startswith(("int", "uint", "string", "large_string", "bool")):
        raise DataError(
            f"{name}: column {label!r} holds no labels (whole numbers or text); name another with --label_column"
        )
    names, index = _label_names(parts["train"], label)
    numbers = {role: _numbered(part[label][:], index, what[role]) for role, part in parts.items()}
    for role, part in parts.items():
        own = getattr(part.features[label], "names", names)
        if index is None and list(own) != names:  # a ClassLabel of the same names in another order, or of others
            numbers[role] = _renumbered(numbers[role], own, names, what[role])
    return numbers, names


def undecoded(part: Any, column: str) -> Any:
    """The column as {"path", "bytes"}, nothing decoded."""
    return part.select_columns([column]).cast_column(column, type(part.features[column])(decode=False))


def paths(part: Any, column: str) -> list[str | None]:
    """Of each row, the path of its file where it has one; the files' bytes are not read."""
    found: list[str | None] = []
    for rows in undecoded(part, column).with_format("arrow").iter(batch_size=10_000):
        for chunk in rows.column(column).chunks:
            found += chunk.field("path").to_pylist()
    return found


def _check_column(column: str, features: Any, name: str) -> None:
    if column not in features:
        raise DataError(f"{name} has no column {column!r} (it has {', '.join(features)})")


def _label_columns(features: Any) -> list[str]:
    """Columns of labels by their type, or else by their name."""
    import datasets

    found = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    return found or [key for key in ("label", "labels", "class", "target") if key in features]


def _only(found: list[str], features: Any, name: str, what: str, flag: str) -> str:
    if len(found) != 1:
        raise DataError(
            f"{name} has {len(found)} {what} columns (columns: {', '.join(features)}); name one with {flag}"
        )
    return found[0]


def _label_names(train: Any, label: str) -> tuple[list[str], dict[Any, int] | None]:
    """Names of the classes and, where labels are not numbered already, the number of each value."""
    feature = train.features[label]
    if hasattr(feature, "names"):  # a ClassLabel
        names, index = list(feature.names), None
    else:
        values = sorted(value for value in train.unique(label) if value is not None)
        names, index = [str(value) for value in values], {value: i for i, value in enumerate(values)}
    return names, index


def _renumbered(numbers: torch.Tensor, own: list[str], names: list[str], what: str) -> torch.Tensor:
    """Labels (N,) that count a split's own names, counted by those of training."""
    used = numbers.unique().tolist()
    if used[0] < 0 or used[-1] >= len(own):
        raise DataError(f"{what}: labels run from {used[0]} to {used[-1]} over {len(own)} names")
    unknown = next((own[number] for number in used if own[number] not in names), None)
    if unknown is not None:
        raise DataError(f"{what} has the label {unknown!r}, which does not occur in training")
    return torch.tensor([names.index(name) if name in names else -1 for name in own])[numbers]


def _numbered(values: list[Any], index: dict[Any, int] | None, what: str) -> torch.Tensor:
    if len(values) == 0 or any(value is None for value in values):
        raise DataError(f"{what} is empty or has inputs without a label")
    if index is not None:
        unknown = next((value for value in values if value not in index), None)
        if unknown is not None:
            raise DataError(f"{what} has the label {unknown!r}, which does not occur in training")
        values = [index[value] for value in values]
    return torch.tensor(values, dtype=torch.int64)
