"""`imagefolder:PATH` and `audiofolder:PATH`, or just a folder: files of one kind, by folder, by table or by name.

PATH/train/<class>/…, PATH/test/<class>/…, or PATH/<class>/…; a table, where there is one, says what it has columns for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from pfm.data.config import DataConfig
from pfm.data.dicom import ending_of, patient_of
from pfm.data.file_names import sorted_names
from pfm.data.groups import DICOM, FOLDER, group_pattern
from pfm.data.inputs import Storage
from pfm.data.kinds import KINDS
from pfm.data.readers.csv_table import table_bytes
from pfm.data.readers.folder_table import FileFacts, read_facts, split_roles, table_path
from pfm.data.readers.listing import ClassFolder, FoundFile, Listing, list_folder
from pfm.data.readers.roles import as_data, role_of
from pfm.data.reading import FilesToRead, Intake
from pfm.data.splits import ClassificationData, Split, check_class_count
from pfm.errors import ConfigError, DataError

DICOM_ENDINGS = (".dcm", ".dicom")
# what Hugging Face `datasets` reads a folder by
_OF_LIBRARY = ("dataset_dict.json", "state.json", "*.parquet", "*.arrow", "*.jsonl", "data/*.parquet", "*/*.arrow")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A file with what is known of it.

    Attributes:
        role: of its split.
        label: name of its class.
        group: what it belongs to; "" where nothing is known.
    """

    file: FoundFile
    role: str
    label: str
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class FoundSamples:
    """What a folder holds.

    Attributes:
        samples: in order.
        called: what the folder calls the split of each role.
        is_by_folder: the classes are folders.
        notes: for people.
    """

    samples: tuple[Sample, ...]
    called: dict[str, str]
    is_by_folder: bool
    notes: tuple[str, ...]


class FolderReader:
    """Folders of files, of any kind of input."""

    source_options: ClassVar[tuple[str, ...]] = ("input_column", "label_column", "label_from")

    def takes(self, config: DataConfig) -> bool:
        if config.dataset != config.folder:  # behind the prefix of its kind
            return True
        folder = Path(config.dataset).expanduser()
        if not folder.is_dir() or any(next(folder.glob(pattern), None) for pattern in _OF_LIBRARY):
            return False
        endings = KINDS.get(config.kind).storage.endings
        return any(ending_of(path) in endings for path in folder.rglob("*") if path.is_file())

    def check_there(self, config: DataConfig) -> None:
        root = Path(config.folder).expanduser()
        if not root.is_dir():
            prefix = config.dataset.removesuffix(config.folder)
            raise DataError(f"no folder {root}; {prefix}PATH wants PATH/train/<class>/… or PATH/<class>/…")
        if config.table:
            table_bytes(table_path(root, config))

    def read(self, config: DataConfig, storage: Storage, intake: Intake) -> ClassificationData:
        self.check_there(config)
        root = Path(config.folder).expanduser()
        found = find_samples(root.resolve(), config, storage)
        samples, called, notes = found.samples, found.called, found.notes
        by_role = {role: [sample for sample in samples if sample.role == role] for role in ("train", "val", "test")}
        by_role = {role: part for role, part in by_role.items() if part}
        if "train" not in by_role:
            raise DataError(f"{root} has no {storage.noun} for training (there are some for {', '.join(by_role)})")
        labels = {sample.label for sample in samples}
        names = sorted(labels) if found.is_by_folder else sorted_names(labels)
        if len(names) < 2:
            hint = _inside_hint(root, names) or _table_hint(config, found)
            check_class_count(config.short_name, names, intake, hint)
        files = {
            role: _files(part, f"{config.short_name}/{called.get(role, role)}", config, storage, intake)
            for role, part in by_role.items()
        }
        storage = storage.decided(files, config)
        numbers = {name: number for number, name in enumerate(names)}
        splits: dict[str, Split] = {}
        for role, stacked in storage.read_splits(files).items():
            kept = [by_role[role][place] for place in stacked.kept.tolist()]
            splits[role] = Split(
                stacked.inputs,
                torch.tensor([numbers[sample.label] for sample in kept], dtype=torch.int64),
                tuple(sample.group for sample in kept) if config.group else None,
                tuple(sample.file.name for sample in kept),
            )
            notes += stacked.notes
        called = {role: called.get(role, role) for role in splits}
        return as_data(config, splits, names, storage, called=called, notes=notes)


def find_samples(root: Path, config: DataConfig, storage: Storage) -> FoundSamples:
    """The files of a folder with their splits, classes and groups; none of them is read.

    Raises:
        DataError: folders or tables that do not say what each file is.
    """
    is_named = bool(config.name_pattern or config.table or config.label_column)
    listing = list_folder(root, storage.endings, ignored=config.ignored, by_folder=not is_named)
    facts = read_facts(root, listing, config)
    if not listing.files:
        raise DataError(f"{root} holds no {storage.noun} ({', '.join(storage.endings[:5])}, …)" + _others_hint(listing))
    column = "" if config.name_pattern else facts.label_column(config)
    notes = [*listing.notes, *facts.notes]
    files = list(listing.files)
    if column and not facts.is_beside:
        files = _of_table(files, facts, notes)
    if config.name_pattern:
        labels = config.name_pattern.labels([file.name for file in files])
    elif column:
        files, labels = _labelled(files, facts, column, config, notes)
    else:
        files = _in_classes(root, listing, facts, config, notes)
        labels = [file.folders[0] for file in files]
    roles = split_roles(files, facts)
    is_by_folder = not (config.name_pattern or column)
    groups = _groups(files, facts, config, is_by_folder=is_by_folder)
    if not config.group and any(ending_of(file.path) in DICOM_ENDINGS for file in files):
        notes.append(f"there are DICOM files: --group {DICOM} keeps all of a patient in one split")
    samples = tuple(
        Sample(file=file, role=role, label=label, group=group)
        for file, role, label, group in zip(files, roles, labels, groups, strict=True)
    )
    return FoundSamples(samples=samples, called=listing.called, is_by_folder=is_by_folder, notes=tuple(notes))


def _of_table(files: list[FoundFile], facts: FileFacts, notes: list[str]) -> list[FoundFile]:
    """The files that a table names; the others are counted."""
    named = [file for file in files if file.name in facts.rows]
    if len(named) < len(files):
        first = next(file.name for file in files if file.name not in facts.rows)
        notes.append(f"{len(files) - len(named):,} files are not in {facts.where} and are left out; first: {first}")
    return named


def _labelled(
    files: list[FoundFile], facts: FileFacts, column: str, config: DataConfig, notes: list[str]
) -> tuple[list[FoundFile], list[str]]:
    """The files with their labels from a table, as text."""
    labels = facts.values(files, column)
    blank = [file.name for file, label in zip(files, labels, strict=True) if not label.strip()]
    if blank:
        text = f"{facts.where}: {len(blank):,} files have no label in column {column}; first: {blank[0]}"
        if not config.skip_bad:
            raise DataError(f"{text}; fill it in, or give --skip_bad")
        notes.append(f"{text}; left out")
    pairs = [(file, label) for file, label in zip(files, labels, strict=True) if label.strip()]
    return [file for file, _ in pairs], [label for _, label in pairs]


def _in_classes(
    root: Path, listing: Listing, facts: FileFacts, config: DataConfig, notes: list[str]
) -> list[FoundFile]:
    """The files that are in a class's folder. What is not read is named.

    Raises:
        DataError: there are none, or a class of which nothing is read.
    """
    files = [file for file in listing.files if file.folders]
    loose = [file.name for file in listing.files if not file.folders]
    if not files or (loose and facts.where):
        has = f"{facts.where} has 0 label columns (columns: {', '.join(facts.columns)})" if facts.where else (
            f"{root} has 0 label columns and no folders of classes"
        )  # fmt: skip
        if listing.called:
            has += f" ({', '.join(listing.called.values())} are splits; if they are classes, put them into one of them)"
        raise DataError(
            f"{has}: {loose[0]} is in no class's folder; put each class into a folder, or see --table, --label_column "
            "and --label_from"
        )
    if config.table:
        columns = ", ".join(facts.columns)
        notes.append(f"{facts.where} has no label column (columns: {columns}): the classes are the folders")
    if loose:
        notes.append(f"{len(loose):,} files are in no class's folder and are left out; first: {loose[0]}")
    found = {file.folders[0] for file in files if file.role == "train"}
    lost: list[str] = []
    for (role, name), folder in sorted(listing.classes.items()):
        where = f"{listing.called.get(role, root.name)}/{name}"
        if folder.count == 0 and name not in found and role == "train":
            lost.append(name)
            notes.append(f"class {name!r} has no file that is read: {folder.describe()}; the class is left out")
        elif folder.count == 0:
            notes.append(f"nothing of {where} is read: {folder.describe()}")
        elif folder.others:
            notes.append(f"{where}: of other kinds and not read: {folder.kinds()}")
    if lost and not config.skip_bad:
        first = listing.classes["train", lost[0]].describe()
        others = f" (nor have {', '.join(map(repr, lost[1:6]))})" if lost[1:] else ""
        raise DataError(
            f"class {lost[0]!r} has no file that is read: {first}{others}; convert the files, take the folder out, or "
            f"give --ignore '{','.join(lost)}'"
        )
    return files


def _groups(files: Sequence[FoundFile], facts: FileFacts, config: DataConfig, *, is_by_folder: bool) -> list[str]:
    """The group of each file, "" throughout where none were asked for.

    Args:
        is_by_folder: the first folder is the class.

    Raises:
        DataError: a file without a group.
        ConfigError: a column or field that is not there.
    """
    asked, pattern = config.group, group_pattern(config.group)
    names = [file.name for file in files]
    if not asked:
        return [""] * len(files)
    if pattern is not None:
        groups = pattern.labels(names)
    elif asked == FOLDER:
        first = 1 if is_by_folder else 0
        groups = [file.folders[first] if len(file.folders) > first else "" for file in files]
    elif asked == DICOM:
        groups = [_patient(file.path) for file in files]
    elif config.name_pattern is not None and asked in config.name_pattern.fields:
        groups = config.name_pattern.labels(names, asked)
    elif asked in facts.columns:
        groups = facts.values(files, asked)
    else:
        there = ", ".join((*facts.columns, *(config.name_pattern.fields if config.name_pattern else ())))
        raise ConfigError(
            f"--group {asked}: there is no such column ({there or 'there is no table'}); it takes a column of --table, "
            f"{FOLDER}, {DICOM}, or name:PATTERN with a field {{group}}"
        )
    without = [name for name, group in zip(names, groups, strict=True) if not group.strip()]
    if without:
        what = {FOLDER: " (they are in no folder below their class)", DICOM: " (they are not DICOM, or say none)"}
        raise DataError(
            f"--group {asked}: {len(without):,} files have no group{what.get(asked, '')}; first: {without[0]}"
        )
    return groups


def _patient(path: Path) -> str:
    """The patient of a DICOM file; "" of another, or of one that cannot be read, which reading it will name."""
    try:
        return patient_of(path)
    except ValueError as error:
        raise DataError(f"--group {DICOM}: cannot read {path}: {error}") from error


def _files(samples: Sequence[Sample], where: str, config: DataConfig, storage: Storage, intake: Intake) -> FilesToRead:
    paths = [sample.file.path for sample in samples]
    return FilesToRead(
        load=paths.__getitem__,
        count=len(paths),
        where=where,
        name=lambda index: f"{paths[index]} ({storage.item} {index} of {where})",
        skip_bad=config.skip_bad,
        max_seconds=config.max_seconds,
        intake=intake,
        classes=[sample.label for sample in samples],
    )


def _inside_hint(root: Path, names: Sequence[str]) -> str:
    """Where the one folder holds the splits, that it is to be given instead."""
    inner = root / names[0] if names else root
    if inner.is_dir() and any(role_of(entry.name) == "train" for entry in inner.iterdir() if entry.is_dir()):
        return f"; did you mean {inner}?"
    return ""


def _table_hint(config: DataConfig, found: FoundSamples) -> str:
    """Where a table was given and its labels were not found, how to name them."""
    if not (config.table and found.is_by_folder):
        return ""
    return f"; the labels were not taken from {config.table}: name their column with --label_column"


def _others_hint(listing: Listing) -> str:
    """What there is instead of files that are read."""
    folders: list[ClassFolder] = [folder for folder in listing.classes.values() if folder.others]
    return f"; {folders[0].describe()}" if folders else ""
