"""What is varied in training inputs, of whatever kind: what a model's preprocessing draws for a batch.

What happens to images and to sounds is in files of their own: `image_augmentation.py`, `sound_augmentation.py`.
"""

from typing import Protocol

import torch


class Augmentation(Protocol):
    """What is done to each input of a batch, drawn before any of them is looked at."""

    def rows(self, index: torch.Tensor, /) -> "Augmentation":
        """The part for some inputs."""
        ...

    def __call__(self, stored: torch.Tensor, /) -> torch.Tensor:
        """Stored inputs (B, …) -> the same, varied."""
        ...
