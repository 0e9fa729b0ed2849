"""Folders of sounds: PATH/<split>/<class>/file, PATH/<class>/file, or with a metadata.csv beside the files.

The layout is that of the builder `audiofolder` of Hugging Face `datasets`, which cannot be used here: it
decodes through torchcodec and FFmpeg.
"""

import csv
from dataclasses import dataclass, field
from pathlib import Path

from pfm.errors import DataError

METADATA, FILE_NAME = "metadata.csv", "file_name"
ENDINGS = (".wav", ".flac", ".ogg", ".oga", ".mp3", ".aiff", ".aif", ".au", ".opus")
SPLITS = {"train", "training", "validation", "val", "valid", "dev", "test", "eval"}


@dataclass
class SoundTable:
    """The files of a split.

    Attributes:
        paths: of the files.
        columns: by name, a value for each file: `label` of the folder it lies in, or what metadata.csv says.
    """

    paths: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)


def list_sounds(folder: Path) -> dict[str, SoundTable]:
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


def _list_split(folder: Path) -> SoundTable:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file())
    if (folder / METADATA).is_file():
        return _with_metadata(folder, files)
    table = SoundTable([str(path) for path in files])
    parts = [path.relative_to(folder).parts for path in files]
    if files and all(len(part) > 1 for part in parts):
        table.columns["label"] = [part[0] for part in parts]
    return table


def _with_metadata(folder: Path, files: list[Path]) -> SoundTable:
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
    return SoundTable(
        [str(path) for path in by_path],
        {name: [row[name] for row in by_path.values()] for name in columns if name != FILE_NAME},
    )
