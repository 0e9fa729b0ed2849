"""MedMNIST by name, and `.npz` files in its layout."""

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.classes import split_names
from pfm.data.images import from_arrays
from pfm.data.splits import ClassificationData, DataConfig, Split, class_list, first_line
from pfm.errors import DataError, StorageError
from pfm.storage import explain


def is_medmnist(name: str) -> bool:
    import medmnist

    return name in medmnist.INFO


def load_medmnist(name: str, config: DataConfig) -> ClassificationData:
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
    return ClassificationData(
        name, class_list(config, names), splits["train"], splits["test"], splits.get("val"), notes
    )


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


def load_npz(path: Path, config: DataConfig) -> ClassificationData:
    splits = _read_npz(path)
    # every split is checked against the classes that training has, or that were named
    num_classes = len(split_names(config.class_names)) if config.class_names else _count_classes(path, splits["train"])
    names = [str(i) for i in range(num_classes)]
    return ClassificationData(path.stem, class_list(config, names), splits["train"], splits["test"], splits.get("val"))


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
        raise DataError(f"{path} is truncated or no .npz file ({first_line(error)}); replace it") from error


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
