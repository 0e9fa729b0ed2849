"""Data sets by name: the reader that takes the name reads it."""

import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import Storage
from pfm.data.pixels import limit_pixels
from pfm.data.readers import READERS
from pfm.data.splits import ClassificationData, check_labels
from pfm.registry import load_plugins


def load_data(config: DataConfig, storage: Storage, *, device: torch.device | None = None) -> ClassificationData:
    """Load a data set.

    Args:
        storage: how the inputs are to be stored: what images of uneven size are brought to when decoded, or the
            features of sounds.
        device: that computes features.  [default: the CPU]

    Raises:
        DataError: no such data set, an unreadable file, or labels that do not fit.
        ConfigError: sounds for a model of images, or the other way about.
    """
    config.check_storage(storage)
    load_plugins()
    limit_pixels(config.max_pixels)
    reader = next(reader for reader in reversed(list(READERS)) if reader.takes(config))
    data = reader.read(config, storage, device)
    check_labels(data)
    return data
