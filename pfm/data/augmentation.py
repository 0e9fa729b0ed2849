"""What is varied in training inputs, of whatever kind: the options of all kinds together.

The options of a kind, and what they do, are in its own file: `image_augmentation.py`, `sound_augmentation.py`. A
model's preprocessing, which knows its kind, draws what happens to each input.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from pfm.data.image_augmentation import ImageAugmentConfig
from pfm.data.inputs import KINDS, Storage
from pfm.data.sound_augmentation import SoundAugmentConfig
from pfm.errors import ConfigError


class Augmentation(Protocol):
    """What is done to each input of a batch, drawn before any of them is looked at."""

    def rows(self, index: torch.Tensor, /) -> "Augmentation":
        """The part for some inputs."""
        ...

    def __call__(self, stored: torch.Tensor, /) -> torch.Tensor:
        """Stored inputs (B, …) -> the same, varied."""
        ...


# the fields of the last base come first
@dataclass(frozen=True, kw_only=True)
class AugmentConfig(SoundAugmentConfig, ImageAugmentConfig):
    """What is varied in training inputs; only what is for the kind of input at hand may be given."""

    @property
    def is_on(self) -> bool:
        return bool(self._given(type(self)))

    def _given(self, options: type[Any]) -> list[str]:
        """Those of the options that are on."""
        return [entry.name for entry in dataclasses.fields(options) if getattr(self, entry.name)]

    def check_kind(self, storage: Storage) -> None:
        """Refuse what is for another kind of input.

        Raises:
            ConfigError: which options.
        """
        for kind in KINDS:
            given = self._given(kind.storage.augment_config)
            if given and kind.storage.augment_config is not storage.augment_config:
                flags = ", ".join(f"--{name}" for name in given)
                raise ConfigError(f"for {kind.storage.noun} only: {flags}; this data has none")
