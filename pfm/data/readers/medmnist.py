"""MedMNIST by name: read from where its files are, downloaded where they are not."""

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar
from urllib.error import HTTPError

from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.inputs import Storage
from pfm.data.readers.npz import read_npz
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData, class_list
from pfm.errors import DataError, StorageError, explain
from pfm.storage import CANNOT_WRITE


class MedMnistReader:
    """The 2D sets with one label an image."""

    source_options: ClassVar[tuple[str, ...]] = ("data_dir", "size")

    def takes(self, config: DataConfig) -> bool:
        import medmnist

        return config.dataset in medmnist.INFO

    def check_there(self, config: DataConfig) -> None:
        config.check_kind(ImageStorage.kind)
        import medmnist

        name = config.dataset
        if name.endswith("3d"):
            raise DataError(f"{name} holds volumes; only MedMNIST's 2D sets are supported")
        if "multi-label" in medmnist.INFO[name]["task"]:
            raise DataError(f"{name} gives an image several labels; one class for each image is needed")
        class_list(config, _class_names(name))

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        self.check_there(config)
        name = config.dataset
        folder = Path(config.data_dir).expanduser() if config.data_dir else Path.home() / ".medmnist"
        path = folder / (f"{name}.npz" if config.size == 28 else f"{name}_{config.size}.npz")
        if not path.exists():
            _download(name, config.size, path)
        names = _class_names(name)
        splits = read_npz(path, max_expansion=config.max_expansion)
        notes: tuple[str, ...] = ()
        if name == "octmnist":
            if "val" not in splits:
                raise DataError(f"{path} lacks val_images, val_labels; octmnist is trained on its val split")
            splits["train"] = splits.pop("val")
            notes = ("trained on the val split, as the paper's tool does, since train is large",)
        return ClassificationData(
            name, class_list(config, names), splits["train"], splits["test"], splits.get("val"), notes
        )


def _class_names(name: str) -> list[str]:
    import medmnist

    labels = medmnist.INFO[name]["label"]
    return [labels[str(number)] for number in range(len(labels))]


def medmnist_names() -> list[str]:
    """The names that are taken and can be read."""
    import medmnist

    return [name for name in medmnist.INFO if not name.endswith("3d")]


def _download(name: str, size: int, path: Path) -> None:
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
            kind = getattr(medmnist, info["python_class"])
            client = kind.__new__(kind)  # whose constructor would read all images, and leave the file open
            client.info, client.root, client.size_flag = info, folder, "" if size == 28 else f"_{size}"
            client.download()
            shutil.move(Path(folder) / path.name, path)
        except (OSError, RuntimeError) as error:
            # medmnist makes a RuntimeError of everything, Ctrl-C included; what happened is its context
            cause = error.__context__ or error
            if isinstance(cause, KeyboardInterrupt):
                raise cause from None
            if isinstance(cause, HTTPError):
                cause.close()
            if isinstance(cause, OSError) and cause.errno in CANNOT_WRITE:
                raise StorageError(
                    f"cannot write {path}: {explain(cause)}; free some space, or give another --data_dir"
                ) from error
            url = info["url" if size == 28 else f"url_{size}"]
            raise DataError(
                f"{name} could not be downloaded ({_reason(cause)}); try again, or put {path.name} into {path.parent} "
                f"by hand, from {url}"
            ) from error


def _reason(cause: BaseException) -> str:
    if "corrupted" in str(cause):  # torchvision's word for both
        return "what came is not whole, or does not have the checksum that MedMNIST states"
    return " ".join(str(cause).split())[:120] or type(cause).__name__
