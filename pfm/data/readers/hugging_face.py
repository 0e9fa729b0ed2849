"""Hugging Face `datasets`: hub names, local data sets, folders of images or sounds."""

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pfm.data.file_names import sorted_names
from pfm.data.images import ImageStorage, resize_all, stack_images
from pfm.data.inputs import Storage
from pfm.data.reading import Stacked
from pfm.data.sound_folders import list_sounds
from pfm.data.sounds import SoundStorage, stack_sounds
from pfm.data.splits import ClassificationData, DataConfig, Split, class_list, first_line, hold_out
from pfm.errors import DataError
from pfm.hub import quiet_hub


def load_image_folder(folder: Path, config: DataConfig, form: Storage) -> ClassificationData:
    """PATH/train/<class>/…, PATH/test/<class>/…, or PATH/<class>/…; or with labels in file names."""
    _check_folder(folder, "imagefolder")
    import datasets

    with _quiet(datasets):
        try:
            loaded = datasets.load_dataset("imagefolder", data_dir=str(folder.resolve()), drop_labels=False)
        except Exception as error:  # datasets raises its own, fsspec's and pyarrow's errors here
            raise DataError(f"cannot read {folder} as an image folder: {first_line(error)}") from error
    return _from_hugging_face(loaded, config.short_name, config, form, None)


def load_sound_folder(
    folder: Path, config: DataConfig, form: Storage, device: torch.device | None
) -> ClassificationData:
    """The same for sounds; or with a metadata.csv."""
    _check_folder(folder, "audiofolder")
    import datasets

    loaded = datasets.DatasetDict()
    for split, table in list_sounds(folder.resolve()).items():
        files = {"audio": [{"bytes": None, "path": path} for path in table.paths]}
        plain = datasets.Dataset.from_dict({**files, **table.columns})
        loaded[split] = plain.cast_column("audio", datasets.Audio(decode=False))
    return _from_hugging_face(loaded, config.short_name, config, form, device)


def _check_folder(folder: Path, builder: str) -> None:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; {builder}:PATH wants PATH/train/<class>/… or PATH/<class>/…")


def load_hugging_face(name: str, config: DataConfig, form: Storage, device: torch.device | None) -> ClassificationData:
    """A data set of the hub, or a local one of the library's."""
    import datasets

    path = Path(name).expanduser()
    with _quiet(datasets):
        try:
            if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                loaded = datasets.load_from_disk(str(path))
            else:
                loaded = datasets.load_dataset(str(path) if path.exists() else name)
        except Exception as error:  # as above
            raise DataError(_not_found(name, path, error)) from error
    return _from_hugging_face(loaded, config.short_name, config, form, device)


def _not_found(name: str, path: Path, error: Exception) -> str:
    import medmnist

    if path.exists():
        return f"cannot read {path} as a data set: {first_line(error)}"
    known = [key for key in medmnist.INFO if not key.endswith("3d")] + ["digits"]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown data set {name!r}{hint} (no MedMNIST name, no .npz, no imagefolder:PATH; "
        f"Hugging Face datasets answers: {first_line(error)})"
    )


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Silence the library's own bars (ours says what is decoded) and ask the hub only where there is one."""
    had_bars, was_offline = datasets.is_progress_bar_enabled(), datasets.config.HF_HUB_OFFLINE
    datasets.disable_progress_bars()
    try:
        with quiet_hub() as is_offline:
            datasets.config.HF_HUB_OFFLINE = was_offline or is_offline
            yield
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
        if had_bars:
            datasets.enable_progress_bars()


def _from_hugging_face(
    loaded: Any, name: str, config: DataConfig, form: Storage, device: torch.device | None
) -> ClassificationData:
    import datasets

    parts: dict[Any, Any] = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    by_role = {role: next((key for key in keys if key in parts), None) for role, keys in _SPLIT_NAMES.items()}
    if by_role["train"] is None:
        raise DataError(f"{name} has no train split (it has {', '.join(parts)})")
    chosen = {role: parts[key] for role, key in by_role.items() if key is not None}
    kind = _SOUNDS if isinstance(form, SoundStorage) else _IMAGES
    column = _input_column(chosen["train"].features, name, config, kind)
    labels, names = _labels(chosen, {role: f"{name}: split {by_role[role]!r}" for role in chosen}, column, name, config)
    where = {role: f"{name}/{by_role[role]}" for role in chosen}
    if isinstance(form, SoundStorage):
        stacked = _read_sounds(chosen, column, where, config, form, device)
    else:
        stacked = {role: _decode_images(chosen[role], column, where[role], config, form) for role in chosen}
    splits = {role: Split(part.inputs, labels[role][part.kept]) for role, part in stacked.items()}
    if isinstance(form, ImageStorage):
        splits = _same_shape(splits, form.size)
    notes = tuple(note for part in stacked.values() for note in part.notes)
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes += (f"no test split in the source: tested on {by_role['val']!r}",)
    elif "test" not in splits:
        splits["train"], splits["test"], note = hold_out(splits["train"], name)
        notes += (note,)
    classes = class_list(config, names)
    return ClassificationData(name, classes, splits["train"], splits["test"], splits.get("val"), notes)


_SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test", "eval")}


# a column's type in the library, and what its entries are called
_IMAGES, _SOUNDS = ("Image", "image", "images"), ("Audio", "audio", "sounds")


def _input_column(features: Any, name: str, config: DataConfig, kind: tuple[str, str, str]) -> str:
    """The column of the inputs: the one the user named, or the only one of its type."""
    import datasets

    wanted = getattr(datasets, kind[0])
    column = config.input_column or _only_column(features, lambda f: isinstance(f, wanted), name, kind[1])
    _check_column(column, features, name)
    if not isinstance(features[column], wanted):
        raise DataError(f"{name}: column {column!r} holds no {kind[2]}; name another with --input_column")
    return column


def _labels(
    parts: dict[str, Any], what: dict[str, str], column: str, name: str, config: DataConfig
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Numbers of the labels of each split, and the names of the classes."""
    import datasets

    pattern = config.name_pattern
    if pattern is not None:
        texts = {role: pattern.labels(_paths(part, column)) for role, part in parts.items()}
        names = sorted_names(set(texts["train"]))
        index = {text: number for number, text in enumerate(names)}
        return {role: _numbered(values, index, what[role]) for role, values in texts.items()}, names
    features = parts["train"].features
    label = config.label_column or _only_column(features, lambda f: isinstance(f, datasets.ClassLabel), name, "label")
    _check_column(label, features, name)
    kind = getattr(features[label], "dtype", "")  # of a ClassLabel: int64
    if not kind.startswith(("int", "uint", "string", "large_string", "bool")):
        raise DataError(
            f"{name}: column {label!r} holds no labels (whole numbers or text); name another with --label_column"
        )
    names, index = _label_names(parts["train"], label, name)
    return {role: _numbered(part[label][:], index, what[role]) for role, part in parts.items()}, names


def _check_column(column: str, features: Any, name: str) -> None:
    if column not in features:
        raise DataError(f"{name} has no column {column!r} (it has {', '.join(features)})")


def _undecoded(part: Any, column: str) -> Any:
    """The column as {"path", "bytes"}, nothing decoded."""
    return part.select_columns([column]).cast_column(column, type(part.features[column])(decode=False))


def _paths(part: Any, column: str) -> list[str | None]:
    return [(source or {}).get("path") for source in _undecoded(part, column)[column]]


def _label_names(train: Any, label: str, name: str) -> tuple[list[str], dict[Any, int] | None]:
    """Names of the classes and, where labels are not numbered already, the number of each value."""
    feature = train.features[label]
    if hasattr(feature, "names"):  # a ClassLabel
        names, index = list(feature.names), None
    else:
        values = sorted(value for value in train.unique(label) if value is not None)
        names, index = [str(value) for value in values], {value: i for i, value in enumerate(values)}
    if len(names) < 2:
        raise DataError(f"{name} has {len(names)} class ({', '.join(names)}); at least two are needed")
    return names, index


def _numbered(values: list[Any], index: dict[Any, int] | None, what: str) -> torch.Tensor:
    if len(values) == 0 or any(value is None for value in values):
        raise DataError(f"{what} is empty or has inputs without a label")
    if index is not None:
        unknown = next((value for value in values if value not in index), None)
        if unknown is not None:
            raise DataError(f"{what} has the label {unknown!r}, which does not occur in training")
        values = [index[value] for value in values]
    return torch.tensor(values, dtype=torch.int64)


def _decode_images(part: Any, column: str, where: str, config: DataConfig, form: ImageStorage) -> Stacked:
    images = part.select_columns([column])
    sources = _undecoded(part, column)

    def name(index: int) -> str:
        return _called(sources[index][column], f"image {index} of {where}")

    return stack_images(
        lambda i: images[i][column], len(images), size=form.size, where=where, name=name, skip_bad=config.skip_bad
    )


def _called(source: dict[str, Any] | None, place: str) -> str:
    file = (source or {}).get("path")
    return f"{file} ({place})" if file else place


def _read_sounds(
    parts: dict[str, Any],
    column: str,
    where: dict[str, str],
    config: DataConfig,
    form: SoundStorage,
    device: torch.device | None,
) -> dict[str, Stacked]:
    """The features of all splits, equally many frames in each."""
    sources = {role: _undecoded(part, column) for role, part in parts.items()}
    places = [(role, index) for role, part in sources.items() for index in range(len(part))]

    def load(number: int) -> Any:
        role, index = places[number]
        source = sources[role][index][column] or {}
        if source.get("bytes") is None and source.get("path") is None:
            raise ValueError("there is none")
        return source["path"] if source.get("bytes") is None else source["bytes"]

    def name(number: int) -> str:
        role, index = places[number]
        return _called(sources[role][index][column], f"clip {index} of {where[role]}")

    stacked = stack_sounds(
        load, len(places), form, where=" and ".join(where.values()), name=name,
        max_seconds=config.max_seconds, skip_bad=config.skip_bad, device=device,
    )  # fmt: skip
    found, start = {}, 0
    for number, (role, part) in enumerate(sources.items()):
        is_own = (stacked.kept >= start) & (stacked.kept < start + len(part))
        rows = is_own.nonzero()[:, 0]
        own = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)  # they stand together
        notes = stacked.notes if number == 0 else ()
        found[role] = Stacked(stacked.inputs[own], stacked.kept[rows] - start, notes)
        start += len(part)
    return found


def _only_column(features: Any, is_wanted: Any, name: str, kind: str) -> str:
    found = [key for key, feature in features.items() if is_wanted(feature)]
    if not found and kind == "label":
        found = [key for key in ("label", "labels", "class", "target") if key in features]
    if len(found) != 1:
        flag = "--label_column" if kind == "label" else "--input_column"
        raise DataError(
            f"{name} has {len(found)} {kind} columns (columns: {', '.join(features)}); name one with {flag}"
        )
    return found[0]


def _same_shape(splits: dict[str, Split], image_size: int) -> dict[str, Split]:
    """Splits whose images differ in channels or size from each other are made alike."""
    channels = max(split.inputs.shape[1] for split in splits.values())
    spread = {role: Split(split.inputs.expand(-1, channels, -1, -1), split.labels) for role, split in splits.items()}
    if len({split.inputs.shape[2:] for split in spread.values()}) > 1:
        return {role: Split(resize_all(split.inputs, image_size), split.labels) for role, split in spread.items()}
    return spread
