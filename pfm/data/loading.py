"""Data sets by name: the reader that takes the name reads it."""

import dataclasses
import itertools
from pathlib import Path

from pfm.data.config import DataConfig
from pfm.data.groups import check_key, hashed_group, read_key, shared_note
from pfm.data.inputs import Storage
from pfm.data.kinds import KINDS
from pfm.data.pixels import limit_pixels
from pfm.data.readers import READERS, EarlyReader, Reader, StatingReader
from pfm.data.readers.folders import FolderReader
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData, Split, check_labels
from pfm.errors import ConfigError
from pfm.registry import load_plugins

# options that are about some sources only, and what to call those
_ABOUT = (
    (("data_dir", "size"), "MedMNIST by name"),
    (("input_column", "label_column", "label_from"), "folders, tables and the hub"),
)


def load_data(config: DataConfig, storage: Storage, *, intake: Intake | None = None) -> ClassificationData:
    """Load a data set.

    Args:
        storage: how the inputs are to be stored: what images of uneven size are brought to when decoded, or the
            features of sounds.
        intake: how files are decoded and where that is kept.  [default: by all cores, where there is room]

    Raises:
        DataError: no such data set, an unreadable file, or labels that do not fit.
        ConfigError: sounds for a model of images, or the other way about.
    """
    config.check_storage(storage)
    limit_pixels(config.max_pixels)
    reader = _reader_of(config)
    intake = intake or Intake()
    data = reader.read(config, storage, intake)
    if data.storage is None:
        data = _as_arrays(data, storage.decided({}, config))
    check_labels(data, intake)
    return _with_groups(data, config) if config.group else data


def check_data(config: DataConfig) -> None:
    """Refuse data that can never be loaded, before a backbone is looked for, which may be far away; nothing is read.

    Raises:
        DataError: it is not there, or unknown, or its key of groups cannot be had.
        ConfigError: it does not go with the options.
    """
    reader = _reader_of(config)
    _check_heeded(config, reader)
    if config.hash_groups:
        check_key(Path(config.hash_groups))
    if isinstance(reader, EarlyReader):
        reader.check_there(config)


def _check_heeded(config: DataConfig, reader: Reader) -> None:
    """Refuse options that the kind of input or the source would not heed.

    Raises:
        ConfigError: which.
    """
    given = {entry.name for entry in dataclasses.fields(config) if getattr(config, entry.name) != entry.default}
    for kind in (kind.storage for kind in KINDS if kind.storage.kind != config.kind):
        flags = ", ".join(f"--{name}" for name in kind.data_options if name in given)
        if flags:
            raise ConfigError(f"{flags}: for {kind.noun}, and --dataset {config.dataset} has none; leave it out")
    if not isinstance(reader, StatingReader):
        return
    for names, whose in _ABOUT:
        flags = ", ".join(f"--{name}" for name in names if name in given and name not in reader.source_options)
        if flags:
            raise ConfigError(f"{flags}: for {whose}, and --dataset {config.dataset} is not of these; leave it out")


def _reader_of(config: DataConfig) -> Reader:
    """Whose it is.

    Raises:
        ConfigError: it is asked for in a way that only folders can be.
    """
    load_plugins()
    reader = next(reader for reader in reversed(list(READERS)) if reader.takes(config))
    if (config.table or config.ignore) and not isinstance(reader, FolderReader):
        raise ConfigError(f"--table and --ignore are for folders of files; {config.dataset} is not one")
    return reader


def _with_groups(data: ClassificationData, config: DataConfig) -> ClassificationData:
    """The data with its groups compared, and hashed where that is asked for.

    Raises:
        ConfigError: the source has none.
    """
    splits = [(name, split, split.groups) for name, split in data.splits() if split.groups is not None]
    if not any(name == "train" for name, _, _ in splits):
        raise ConfigError(f"--group {config.group}: {data.name} says nothing of groups; leave it out")
    notes = [
        shared_note(first, second, groups, others)
        for (first, _, groups), (second, _, others) in itertools.combinations(splits, 2)
    ]
    data = dataclasses.replace(data, notes=(*data.notes, *(note for note in notes if note)))
    if not config.hash_groups:
        return data
    key = read_key(Path(config.hash_groups))
    hashed = {
        name: dataclasses.replace(split, groups=tuple(hashed_group(group, key) for group in groups))
        for name, split, groups in splits
    }
    return dataclasses.replace(data, **hashed)


def _as_arrays(data: ClassificationData, storage: Storage) -> ClassificationData:
    """Data that a reader has as arrays, stored as files would be."""

    def taken(split: Split) -> Split:
        return dataclasses.replace(split, inputs=storage.taken(split.inputs))

    val = None if data.val is None else taken(data.val)
    return dataclasses.replace(data, train=taken(data.train), test=taken(data.test), val=val, storage=storage)
