"""`audiofolder:PATH`: PATH/<split>/<class>/file, PATH/<class>/file, or with a metadata.csv beside the files.

The layout is that of the builder `audiofolder` of Hugging Face `datasets`, which cannot be used here: it
decodes through torchcodec and FFmpeg.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers.image_folder import existing_folder
from pfm.data.readers.tables import read_tables
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData
from pfm.data.waves import ENDINGS
from pfm.errors import DataError

METADATA, FILE_NAME = "metadata.csv", "file_name"
SPLITS = {"train", "training", "validation", "val", "valid", "dev", "test", "eval"}


class SoundFolderReader:
    """Folders of sounds."""

    def takes(self, config: DataConfig) -> bool:
        return config.dataset.startswith(SoundStorage.folder_prefix)

    def read(self, config: DataConfig, storage: Storage, device: torch.device | None) -> ClassificationData:
        import datasets

        folder = existing_folder(config, SoundStorage.folder_prefix).resolve()
        loaded = datasets.DatasetDict()
        for split, table in _list_sounds(folder).items():
            files = {"audio": [{"bytes": None, "path": path} for path in table.paths]}
            plain = datasets.Dataset.from_dict({**files, **table.columns})
            loaded[split] = plain.cast_column("audio", datasets.Audio(decode=False))
        return read_tables(loaded, config, storage, device)


@dataclass
class _Table:
    """The files of a split.

    Attributes:
        paths: of the files.
        columns: by name, a value for each file: `label` of the folder it is in, or what metadata.csv says.
    """

    paths: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)


def _list_sounds(folder: Path) -> dict[str, _Table]:
    """The files by split; one split, `train`, where the folder has none.

    Raises:
        DataError: no files, or a metadata.csv that does not fit them.
    """
    children = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    splits = {entry.name: entry for entry in children if entry.name.lower() in SPLITS} or {"train": folder}
    tables = {name.lower(): _list_split(path) for name, path in splits.items()}
    if not any(table.paths for table in tables.values()):
        raise DataError(f"{folder} holds no sounds ({', '.join(ENDINGS[:5])}, …) in {', '.join(sorted(splits))}")
    return {name: table for name, table in tables.items() if table.paths}


def _list_split(folder: Path) -> _Table:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if (folder / METADATA).is_file():
        return _with_metadata(folder, files)
    table = _Table([str(path) for path in files])
    parts = [path.relative_to(folder).parts for path in files]
    if files and all(len(part) > 1 for part in parts):
        table.columns["label"] = [part[0] for part in parts]
    return table


def _with_metadata(folder: Path, files: list[Path]) -> _Table:
    where = folder / METADATA
    with where.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
        columns = list(reader.fieldnames or ())
    if FILE_NAME not in columns:
        raise DataError(f"{where} has no column {FILE_NAME} (it has {', '.join(columns) or 'none'})")
    by_path = {folder / row[FILE_NAME]: row for row in rows}
    missing = next((path for path in by_path if not path.is_file()), None)
    if missing is not None:
        raise DataError(f"{where} names {missing}, which is not there")
    unnamed = next((path for path in files if path not in by_path), None)
    if unnamed is not None:
        raise DataError(f"{where} says nothing of {unnamed}")
    return _Table(
        [str(path) for path in by_path],
        {name: [row[name] for row in by_path.values()] for name in columns if name != FILE_NAME},
    )
