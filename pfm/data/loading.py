"""Data sets by name: MedMNIST, `.npz` files in its layout, folders of images or sounds, Hugging Face, digits."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.data.images import from_arrays
from pfm.data.inputs import Storage
from pfm.data.readers.hugging_face import load_hugging_face, load_image_folder, load_sound_folder
from pfm.data.readers.npz import is_medmnist, load_medmnist, load_npz
from pfm.data.sounds import SoundStorage
from pfm.data.splits import ClassificationData, DataConfig, Split, check_labels, class_list, hold_out
from pfm.errors import ConfigError


def load_data(config: DataConfig, form: Storage, *, device: torch.device | None = None) -> ClassificationData:
    """Load a data set.

    Args:
        form: how the inputs are to be stored: what images of uneven size are brought to when decoded, or the
            features of sounds.
        device: that computes features.  [default: the CPU]

    Raises:
        DataError: no such data set, an unreadable file, or labels that do not fit.
        ConfigError: sounds for a model of images, or the other way about.
    """
    name = config.dataset
    if config.is_audio != isinstance(form, SoundStorage):
        data_kind, model_kind = ("sounds", "images") if config.is_audio else ("images", "sounds")
        flag = "" if config.is_audio else "; data of sounds is audiofolder:PATH or has --data_type audio"
        raise ConfigError(f"--dataset {name} holds {data_kind}, but the model takes {model_kind}{flag}")
    if name.startswith("audiofolder:"):
        folder = Path(name.removeprefix("audiofolder:")).expanduser()
        data = load_sound_folder(folder, config, form, device)
    elif name.startswith("imagefolder:"):
        folder = Path(name.removeprefix("imagefolder:")).expanduser()
        data = load_image_folder(folder, config, form)
    elif isinstance(form, SoundStorage):
        if name == "digits" or name.endswith(".npz") or is_medmnist(name):
            raise ConfigError(f"--data_type audio, but {name} holds images; use audiofolder:PATH")
        data = load_hugging_face(name, config, form, device)
    elif name == "digits":
        data = load_digits_set(config)
    elif name.endswith(".npz"):
        data = load_npz(Path(name).expanduser(), config)
    elif is_medmnist(name):
        data = load_medmnist(name, config)
    else:
        data = load_hugging_face(name, config, form, device)
    check_labels(data)
    return data


def load_digits_set(config: DataConfig) -> ClassificationData:
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    whole = Split(from_arrays(images, "digits"), torch.from_numpy(digits.target.astype(np.int64)))
    train, test, note = hold_out(whole, "digits")
    names = [str(name) for name in digits.target_names]
    return ClassificationData("digits", class_list(config, names), train, test, notes=(note,))
