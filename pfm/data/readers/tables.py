"""From tables of Hugging Face `datasets`, one a split, to a data set of ours."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfm.data.config import DataConfig
from pfm.data.groups import group_pattern
from pfm.data.inputs import Storage
from pfm.data.readers.columns import input_column, numbered_labels, paths, undecoded
from pfm.data.readers.roles import SPLIT_NAMES, as_data
from pfm.data.reading import FilesToRead, Intake
from pfm.data.splits import ClassificationData, Split, check_class_count
from pfm.errors import DataError


def read_tables(loaded: Any, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
    """Read the files of all splits, and number their labels.

    Args:
        loaded: a `DatasetDict`, or a `Dataset`, which then is all for training.
        intake: how files are taken in.

    Raises:
        DataError: a split or column that is missing, a file that cannot be read, labels that do not fit.
    """
    import datasets

    name = config.short_name
    parts: dict[Any, Any] = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    by_role = {role: next((key for key in keys if key in parts), None) for role, keys in SPLIT_NAMES.items()}
    if by_role["train"] is None:
        raise DataError(f"{name} has no train split (it has {', '.join(parts)})")
    chosen = {role: parts[key] for role, key in by_role.items() if key is not None}
    column = input_column(chosen["train"].features, name, config, storage)
    what = {role: f"{name}: split {by_role[role]!r}" for role in chosen}
    labels, names = numbered_labels(chosen, what, column, name, config)
    check_class_count(name, names, intake)
    files = {
        role: replace(
            _files(part, column, f"{name}/{by_role[role]}", config, storage, intake),
            classes=[names[label] for label in labels[role].tolist()],
        )
        for role, part in chosen.items()
    }
    storage = storage.decided(files, config)
    stacked = storage.read_splits(files)
    sources = {role: _source_names(part, column, by_role[role] or "", config) for role, part in chosen.items()}
    groups = {role: _groups(part, column, what[role], config) for role, part in chosen.items()}
    splits: dict[str, Split] = {}
    for role, part in stacked.items():
        kept = part.kept.tolist()
        of_split = groups[role]
        splits[role] = Split(
            part.inputs,
            labels[role][part.kept],
            None if of_split is None else tuple(of_split[place] for place in kept),
            tuple(sources[role][place] for place in kept),
        )
    notes = [note for part in stacked.values() for note in part.notes]
    unused = [str(key) for key in parts if key not in by_role.values()]
    if unused:
        notes.append(f"splits that are not used: {', '.join(unused)}")
    return as_data(config, splits, names, storage, called={role: str(by_role[role]) for role in chosen}, notes=notes)


def _groups(part: Any, column: str, what: str, config: DataConfig) -> list[str] | None:
    """The group of each row, None where none were asked for.

    Raises:
        DataError: no such column, or a row without a group.
    """
    pattern = group_pattern(config.group)
    if not config.group:
        return None
    if pattern is not None:
        return pattern.labels(paths(part, column))
    if config.name_pattern is not None and config.group in config.name_pattern.fields:
        return config.name_pattern.labels(paths(part, column), config.group)
    if config.group not in part.features:
        raise DataError(f"{what} has no column {config.group!r} for --group (it has {', '.join(part.features)})")
    values = part[config.group][:]
    if any(value is None or not str(value).strip() for value in values):
        raise DataError(f"{what}: rows without a group in column {config.group}")
    return [str(value) for value in values]


def _source_names(part: Any, column: str, split: str, config: DataConfig) -> list[str]:
    """Of each row, its file relative to the data set's folder where it has one there, else its split and number."""
    root = os.path.abspath(config.folder)
    names: list[str] = []
    for row, path in enumerate(paths(part, column)):
        file = os.path.abspath(path) if path else ""
        is_inside = file.startswith(os.path.join(root, "")) and os.path.exists(file)
        names.append(Path(file).relative_to(root).as_posix() if is_inside else f"{split}/{row}")
    return names


def _files(part: Any, column: str, where: str, config: DataConfig, storage: Storage, intake: Intake) -> FilesToRead:
    """The files of a split, undecoded."""
    sources = undecoded(part, column)

    def name(index: int) -> str:
        file, place = (sources[index][column] or {}).get("path"), f"{storage.item} {index} of {where}"
        return f"{file} ({place})" if file else place

    return FilesToRead(
        load=lambda index: _content(sources[index][column]),
        count=len(part),
        where=where,
        name=name,
        skip_bad=config.skip_bad,
        max_seconds=config.max_seconds,
        intake=intake,
    )


def _content(entry: Any) -> bytes | Path:
    """A file's bytes, or else its path.

    Raises:
        ValueError: there is nothing.
    """
    entry = entry or {}
    if entry.get("bytes") is not None:
        return entry["bytes"]
    if entry.get("path") is None:
        raise ValueError("there is none")
    return Path(entry["path"])
