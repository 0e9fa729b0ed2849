"""A path to an `.npz` file in MedMNIST's layout: {train,val,test}_{images,labels}."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from pfm.classes import split_names
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage, from_arrays
from pfm.data.inputs import Storage
from pfm.data.limits import MOST_EXPANSION
from pfm.data.readers.archive import CheckedArchive
from pfm.data.reading import Intake, first_line
from pfm.data.splits import ClassificationData, Split, class_list
from pfm.errors import DataError, explain


class NpzReader:
    """Files whose name says so."""

    source_options: ClassVar[tuple[str, ...]] = ()

    def takes(self, config: DataConfig) -> bool:
        return config.dataset.endswith(".npz")

    def check_there(self, config: DataConfig) -> None:
        config.check_kind(ImageStorage.kind)
        _check_file(Path(config.dataset).expanduser())

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        self.check_there(config)
        path = Path(config.dataset).expanduser()
        splits = read_npz(path, config.group, max_expansion=config.max_expansion)
        # every split is checked against the classes that training has, or that were named
        given = config.class_names
        num_classes = len(split_names(given)) if given else _count_classes(path, splits["train"])
        classes = class_list(config, [str(number) for number in range(num_classes)])
        return ClassificationData(path.stem, classes, splits["train"], splits["test"], splits.get("val"))


def _count_classes(path: Path, train: Split) -> int:
    """One more than the largest label, which must be below the number of images."""
    low, high = (int(train.labels.min()), int(train.labels.max())) if len(train) else (0, 0)
    if low < 0 or high >= len(train.inputs):
        raise DataError(
            f"{path}: the train labels run from {low} to {high} over {len(train.inputs)} images; "
            "labels count the classes from 0"
        )
    return high + 1


def read_npz(path: Path, group: str = "", *, max_expansion: int = MOST_EXPANSION) -> dict[str, Split]:
    """The train, val and test splits of a file in MedMNIST's layout.

    Args:
        group: of which groups; `{split}_{group}` has that of each image. "" for none.
        max_expansion: how many times its compressed size a large array may have.

    Raises:
        DataError: missing, truncated, or of another layout.
    """
    _check_file(path)
    try:
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array")
            return _read_splits(CheckedArchive(file, max_expansion), path, group)
    except PermissionError as error:
        raise DataError(f"cannot read {path}: {explain(error)}") from error
    except _DAMAGED as error:
        raise DataError(f"{path} is truncated or not an .npz file ({first_line(error)}); replace it") from error


def _check_file(path: Path) -> None:
    if not path.is_file():  # a pipe would never end
        raise DataError(f"no file {path}; give the path of an .npz in MedMNIST's layout")


# what numpy and zipfile raise for a file that is not what it claims
_DAMAGED = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, NotImplementedError, zipfile.BadZipFile,
    zlib.error,
)  # fmt: skip


def _read_splits(file: Any, path: Path, group: str) -> dict[str, Split]:
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
            groups = _groups(file, path, f"{split}_{group}", len(labels)) if group else None
            splits[split] = Split(images, labels, groups, tuple(f"{split}/{row}" for row in range(len(labels))))
    return splits


def _groups(file: Any, path: Path, key: str, count: int) -> tuple[str, ...]:
    if key not in file.files:
        raise DataError(f"{path} lacks {key}, which --group asks for (it has {', '.join(file.files)})")
    values = _array(file, key)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.shape != (count,):
        raise DataError(f"{path} ({key}) holds {len(values) if values.ndim else 1} values for {count} images")
    return tuple(str(value) for value in values)


def _array(file: Any, key: str) -> np.ndarray:
    value = file[key]
    if not isinstance(value, np.ndarray):  # numpy hands out the bytes of a member that is not one
        raise ValueError(f"{key} is not an array")
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
