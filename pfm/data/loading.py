"""Data sets by name: the reader that takes the name reads it."""

import dataclasses

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.readers import READERS
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData, Split, check_labels
from pfm.registry import load_plugins


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
    load_plugins()
    reader = next(reader for reader in reversed(list(READERS)) if reader.takes(config))
    data = reader.read(config, storage, intake or Intake())
    if data.storage is None:
        data = _as_arrays(data, storage.decided({}, config))
    check_labels(data)
    return data


def _as_arrays(data: ClassificationData, storage: Storage) -> ClassificationData:
    """Data that a reader has as arrays, stored as files would be."""

    def taken(split: Split) -> Split:
        return dataclasses.replace(split, inputs=storage.taken(split.inputs))

    val = None if data.val is None else taken(data.val)
    return dataclasses.replace(data, train=taken(data.train), test=taken(data.test), val=val, storage=storage)
