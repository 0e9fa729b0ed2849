"""From tables of Hugging Face `datasets`, one a split, to a data set of ours."""

import os
from pathlib import Path
from typing import Any

import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers.columns import input_column, numbered_labels, paths, undecoded
from pfm.data.reading import FilesToRead
from pfm.data.splits import ClassificationData, Split, class_list, split_off_test
from pfm.errors import DataError

SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test", "eval")}


def read_tables(loaded: Any, config: DataConfig, storage: Storage, device: torch.device | None) -> ClassificationData:
    """Read the files of all splits, and number their labels.

    Args:
        loaded: a `DatasetDict`, or a `Dataset`, which then is all for training.
        device: that computes features.

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
    stacked = storage.read_splits(
        {
            role: _files(part, column, f"{name}/{by_role[role]}", config, storage, device)
            for role, part in chosen.items()
        }
    )
    sources = {role: _source_names(part, column, by_role[role] or "", config) for role, part in chosen.items()}
    splits = {
        role: Split(
            part.inputs, labels[role][part.kept], names=tuple(sources[role][place] for place in part.kept.tolist())
        )
        for role, part in stacked.items()
    }
    notes = tuple(note for part in stacked.values() for note in part.notes)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes += (f"no test split in the source: tested on {by_role['val']!r}",)
    elif "test" not in splits:
        splits["train"], splits["test"], note = split_off_test(splits["train"], name)
        notes += (note,)
    classes = class_list(config, names)
    return ClassificationData(name, classes, splits["train"], splits["test"], splits.get("val"), notes)


def _source_names(part: Any, column: str, split: str, config: DataConfig) -> list[str]:
    """Of each row, its file relative to the data set's folder where it has one there, else its split and number."""
    root = os.path.abspath(config.folder)
    names: list[str] = []
    for row, path in enumerate(paths(part, column)):
        file = os.path.abspath(path) if path else ""
        is_inside = file.startswith(os.path.join(root, "")) and os.path.exists(file)
        names.append(Path(file).relative_to(root).as_posix() if is_inside else f"{split}/{row}")
    return names


def _files(
    part: Any, column: str, where: str, config: DataConfig, storage: Storage, device: torch.device | None
) -> FilesToRead:
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
        device=device,
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
