"""Data sets by name: MedMNIST, `.npz` files in its layout, image folders, Hugging Face, digits.

Whatever the source, the result is the same: uint8 images and labels per split, and named classes.
"""

import contextlib
import difflib
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.classes import ClassList, split_names
from pfm.errors import ConfigError, DataError, StorageError
from pfm.hub import quiet_hub
from pfm.images import from_arrays, resize_all, stack_images
from pfm.options import option
from pfm.storage import explain

MEDMNIST_SIZES = (28, 64, 128, 224)
HOLD_OUT = 0.2


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data, and where it lies."""

    dataset: str = option(
        "bloodmnist",
        "A MedMNIST name, a path to an .npz in MedMNIST's layout, imagefolder:PATH, "
        "a Hugging Face data set (name or local folder), or digits.",
    )
    data_type: str = option("image", "Kind of input.", choices=("image", "audio"))
    data_dir: str | None = option(None, "Folder of MedMNIST's .npz files.  [default: ~/.medmnist]")
    size: int = option(224, "Resolution of the MedMNIST files: 28, 64, 128 or 224.")
    class_names: str = option("", "Names of the classes, in order, separated by commas, where the data has none.")
    input_column: str = option("", "Column of the images in a Hugging Face data set.  [default: found by its type]")
    label_column: str = option("", "Column of the labels in a Hugging Face data set.  [default: found by its type]")

    def __post_init__(self) -> None:
        if self.data_type == "audio":
            raise ConfigError("--data_type audio is not supported yet; image is")
        if self.size not in MEDMNIST_SIZES:
            raise ConfigError(f"--size {self.size} is no MedMNIST resolution; choose 28, 64, 128 or 224")

    @property
    def short_name(self) -> str:
        """The data set's name as it stands in file names."""
        path = self.dataset.removeprefix("imagefolder:")
        if self.dataset == path and not _looks_like_path(path):
            return path.replace("/", "_")
        return Path(path).resolve().name.removesuffix(".npz")


@dataclass(frozen=True)
class Split:
    """Inputs as stored and labels (N,) int64, labels counted from 0.

    Attributes:
        inputs: images (N, C, H, W) uint8.
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
        shape = "x".join(str(side) for side in reversed(self.train.inputs.shape[1:]))
        lines = [f"data set {self.name}: {len(self.classes)} classes, images {shape}"]
        lines += [f"  note: {note}" for note in self.notes]
        lines.append("  " + "class".ljust(width + 5) + "".join(name.rjust(8) for name, _ in splits))
        counts = [torch.bincount(split.labels, minlength=len(self.classes)).tolist() for _, split in splits]
        for position, (number, name) in enumerate(zip(self.classes.ids, self.classes.names, strict=True)):
            lines.append(f"  {number:>3}  {name.ljust(width)}" + "".join(f"{count[position]:8d}" for count in counts))
        lines.append("  " + "total".ljust(width + 5) + "".join(f"{len(split):8d}" for _, split in splits))
        return "\n".join(lines)


def load_data(config: DataConfig, *, image_size: int) -> ClassificationData:
    """Load a data set.

    Args:
        image_size: side in pixels that images of uneven size are brought to when decoded.

    Raises:
        DataError: no such data set, an unreadable file, or labels that do not fit.
    """
    name = config.dataset
    if name == "digits":
        data = _load_digits(config)
    elif name.startswith("imagefolder:"):
        data = _load_image_folder(Path(name.removeprefix("imagefolder:")).expanduser(), config, image_size)
    elif name.endswith(".npz"):
        data = _load_npz(Path(name).expanduser(), config)
    elif _is_medmnist(name):
        data = _load_medmnist(name, config)
    else:
        data = _load_hugging_face(name, config, image_size)
    _check_labels(data)
    return data


def _looks_like_path(name: str) -> bool:
    return name.endswith(".npz") or name.startswith((".", "/", "~")) or Path(name).exists()


def _check_labels(data: ClassificationData) -> None:
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


def _classes(config: DataConfig, found: list[str]) -> ClassList:
    """The names from `--class_names`, or those the data came with."""
    if not config.class_names:
        return ClassList.from_names(found)
    given = split_names(config.class_names)
    if len(given) != len(found):
        raise DataError(f"--class_names gives {len(given)} names, but the data has {len(found)} classes")
    return ClassList.from_names(given)


def _hold_out(split: Split, what: str) -> tuple[Split, Split, str]:
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


def _load_digits(config: DataConfig) -> ClassificationData:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    whole = Split(from_arrays(images, "digits"), torch.from_numpy(digits.target.astype(np.int64)))
    train, test, note = _hold_out(whole, "digits")
    names = [str(name) for name in digits.target_names]
    return ClassificationData("digits", _classes(config, names), train, test, notes=(note,))


# --- MedMNIST and its file layout -----------------------------------------------------------------


def _is_medmnist(name: str) -> bool:
    import medmnist

    return name in medmnist.INFO


def _load_medmnist(name: str, config: DataConfig) -> ClassificationData:
    import medmnist

    info = medmnist.INFO[name]
    if name.endswith("3d"):
        raise DataError(f"{name} holds volumes; only MedMNIST's 2D sets are supported")
    if "multi-label" in info["task"]:
        raise DataError(f"{name} gives an image several labels; a class of its own for each image is needed")
    folder = Path(config.data_dir).expanduser() if config.data_dir else Path.home() / ".medmnist"
    path = folder / (f"{name}.npz" if config.size == 28 else f"{name}_{config.size}.npz")
    if not path.exists():
        _download_medmnist(name, config.size, path)
    names = [info["label"][str(i)] for i in range(len(info["label"]))]
    splits = _read_npz(path)
    notes: tuple[str, ...] = ()
    if name == "octmnist":
        if "val" not in splits:
            raise DataError(f"{path} lacks val_images, val_labels; octmnist is trained on its val split")
        splits["train"] = splits.pop("val")
        notes = ("trained on the val split, as the paper's tool does, since train is large",)
    return ClassificationData(name, _classes(config, names), splits["train"], splits["test"], splits.get("val"), notes)


def _download_medmnist(name: str, size: int, path: Path) -> None:
    """Download into a folder of its own first, so that a broken download leaves no file behind."""
    import medmnist

    info = medmnist.INFO[name]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write into {path.parent}: {explain(error)}; give --data_dir") from error
    with beside as folder:
        try:
            getattr(medmnist, info["python_class"])(split="train", download=True, root=folder, size=size)
            shutil.move(Path(folder) / path.name, path)
        except (OSError, RuntimeError) as error:
            # medmnist makes a RuntimeError of everything, Ctrl-C included; what happened is its context
            cause = error.__context__ or error
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            reason = " ".join(str(cause).split())[:120] or type(cause).__name__
            url = info["url" if size == 28 else f"url_{size}"]
            raise DataError(
                f"{name} could not be downloaded ({reason}); bring {path.name} into {path.parent} by hand, from {url}"
            ) from error


def _load_npz(path: Path, config: DataConfig) -> ClassificationData:
    splits = _read_npz(path)
    # every split is checked against the classes that training has, or that were named
    num_classes = len(split_names(config.class_names)) if config.class_names else _count_classes(path, splits["train"])
    names = [str(i) for i in range(num_classes)]
    return ClassificationData(path.stem, _classes(config, names), splits["train"], splits["test"], splits.get("val"))


def _count_classes(path: Path, train: Split) -> int:
    """One more than the largest label, which must be below the number of images."""
    low, high = (int(train.labels.min()), int(train.labels.max())) if len(train) else (0, 0)
    if low < 0 or high >= len(train.inputs):
        raise DataError(
            f"{path}: the train labels run from {low} to {high} over {len(train.inputs)} images; "
            "labels count the classes from 0"
        )
    return high + 1


def _read_npz(path: Path) -> dict[str, Split]:
    """The train, val and test splits of a file in MedMNIST's layout.

    Raises:
        DataError: missing, truncated, or of another layout.
    """
    if not path.is_file():
        raise DataError(f"no file {path}; give the path of an .npz in MedMNIST's layout")
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return _read_splits(file, path)
    except PermissionError as error:
        raise DataError(f"cannot read {path}: {explain(error)}") from error
    except _DAMAGED as error:
        raise DataError(f"{path} is truncated or no .npz file ({_first_line(error)}); replace it") from error


# what numpy and zipfile raise for a file that is not what it claims
_DAMAGED = (OSError, ValueError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)


def _read_splits(file: Any, path: Path) -> dict[str, Split]:
    wanted = {f"{split}_{what}" for split in ("train", "test") for what in ("images", "labels")}
    if not wanted <= set(file.files):
        raise DataError(
            f"{path} lacks {', '.join(sorted(wanted - set(file.files)))}; MedMNIST's layout is "
            "{train,val,test}_{images,labels}"
        )
    splits = {}
    for split in ("train", "val", "test"):
        if {f"{split}_images", f"{split}_labels"} <= set(file.files):
            images = from_arrays(_array(file, f"{split}_images"), f"{path} ({split}_images)")
            labels = _as_labels(_array(file, f"{split}_labels"), f"{path} ({split}_labels)")
            splits[split] = Split(images, labels)
    return splits


def _array(file: Any, key: str) -> np.ndarray:
    value = file[key]
    if not isinstance(value, np.ndarray):  # numpy hands out the bytes of a member that is none
        raise ValueError(f"{key} is no array")
    return value


def _as_labels(labels: np.ndarray, where: str) -> torch.Tensor:
    """(N,) or (N, 1) whole numbers -> (N,) int64."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(f"{where} has shape {'x'.join(map(str, labels.shape))}; one label for each image is expected")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{where} holds {labels.dtype} values; whole numbers are expected")
    return torch.from_numpy(labels.astype(np.int64))


# --- Hugging Face datasets ------------------------------------------------------------------------


def _load_image_folder(folder: Path, config: DataConfig, image_size: int) -> ClassificationData:
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; imagefolder:PATH wants PATH/train/<class>/… or PATH/<class>/…")
    import datasets

    with _quiet(datasets):
        try:
            loaded = datasets.load_dataset("imagefolder", data_dir=str(folder.resolve()), drop_labels=False)
        except Exception as error:  # datasets raises its own, fsspec's and pyarrow's errors here
            raise DataError(f"cannot read {folder} as an image folder: {_first_line(error)}") from error
    return _from_hugging_face(loaded, folder.resolve().name, config, image_size)


def _load_hugging_face(name: str, config: DataConfig, image_size: int) -> ClassificationData:
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
    return _from_hugging_face(loaded, config.short_name, config, image_size)


def _not_found(name: str, path: Path, error: Exception) -> str:
    import medmnist

    if path.exists():
        return f"cannot read {path} as a data set: {_first_line(error)}"
    known = [key for key in medmnist.INFO if not key.endswith("3d")] + ["digits"]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown data set {name!r}{hint} (no MedMNIST name, no .npz, no imagefolder:PATH; "
        f"Hugging Face datasets answers: {_first_line(error)})"
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


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


def _from_hugging_face(loaded: Any, name: str, config: DataConfig, image_size: int) -> ClassificationData:
    import datasets

    parts: dict[Any, Any] = dict(loaded) if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}
    by_role = {role: next((key for key in keys if key in parts), None) for role, keys in _SPLIT_NAMES.items()}
    if by_role["train"] is None:
        raise DataError(f"{name} has no train split (it has {', '.join(parts)})")
    column, label = _columns(parts[by_role["train"]].features, name, config)
    names, index = _label_names(parts[by_role["train"]], label, name)
    splits = {}
    for role, key in by_role.items():
        if key is not None:
            labels = _label_numbers(parts[key], label, index, f"{name}: split {key!r}")
            images = _decode_column(parts[key], column, f"{name}/{key}", image_size)
            splits[role] = Split(images, labels)
    splits = _same_shape(splits, image_size)
    notes: tuple[str, ...] = ()
    if "test" not in splits and "val" in splits:
        splits["test"] = splits.pop("val")
        notes = (f"no test split in the source: tested on {by_role['val']!r}",)
    elif "test" not in splits:
        splits["train"], splits["test"], note = _hold_out(splits["train"], name)
        notes = (note,)
    return ClassificationData(name, _classes(config, names), splits["train"], splits["test"], splits.get("val"), notes)


_SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "val", "valid", "dev"), "test": ("test", "eval")}


def _columns(features: Any, name: str, config: DataConfig) -> tuple[str, str]:
    """The columns of images and labels: those the user named, or the only ones of their type."""
    import datasets

    column = config.input_column or _only_column(features, lambda f: isinstance(f, datasets.Image), name, "image")
    label = config.label_column or _only_column(features, lambda f: isinstance(f, datasets.ClassLabel), name, "label")
    for wanted in (column, label):
        if wanted not in features:
            raise DataError(f"{name} has no column {wanted!r} (it has {', '.join(features)})")
    if not isinstance(features[column], datasets.Image):
        raise DataError(f"{name}: column {column!r} holds no images; name another with --input_column")
    kind = getattr(features[label], "dtype", "")  # of a ClassLabel: int64
    if not kind.startswith(("int", "uint", "string", "large_string", "bool")):
        raise DataError(
            f"{name}: column {label!r} holds no labels (whole numbers or text); name another with --label_column"
        )
    return column, label


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


def _label_numbers(part: Any, label: str, index: dict[Any, int] | None, what: str) -> torch.Tensor:
    values = part[label][:]
    if len(values) == 0 or any(value is None for value in values):
        raise DataError(f"{what} is empty or has images without a label")
    if index is not None:
        unknown = next((value for value in values if value not in index), None)
        if unknown is not None:
            raise DataError(f"{what} has the label {unknown!r}, which does not occur in training")
        values = [index[value] for value in values]
    return torch.tensor(values, dtype=torch.int64)


def _decode_column(part: Any, column: str, where: str, image_size: int) -> torch.Tensor:
    import datasets

    images = part.select_columns([column])

    def name(index: int) -> str:
        source = images.cast_column(column, datasets.Image(decode=False))[index][column]
        file = (source or {}).get("path")
        return f"{file} (image {index} of {where})" if file else f"image {index} of {where}"

    return stack_images(lambda i: images[i][column], len(images), size=image_size, where=where, name=name)


def _only_column(features: Any, is_wanted: Any, name: str, kind: str) -> str:
    found = [key for key, feature in features.items() if is_wanted(feature)]
    if not found and kind == "label":
        found = [key for key in ("label", "labels", "class", "target") if key in features]
    if len(found) != 1:
        flag = "--input_column" if kind == "image" else "--label_column"
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
