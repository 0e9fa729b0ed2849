"""Images or sounds: what stands for either, and what is made of them for a model."""

from typing import Any

from pfm.data.images import ImagePreprocess, ImageStorage
from pfm.data.sounds import SoundPreprocess, SoundStorage

Preprocess = ImagePreprocess | SoundPreprocess
Storage = ImageStorage | SoundStorage


def preprocess_from_dict(values: dict[str, Any]) -> Preprocess:
    """What `to_dict` of either kind wrote.

    Raises:
        KeyError: a value is missing.
    """
    return {"image": ImagePreprocess, "audio": SoundPreprocess}[values["kind"]].from_dict(values)
