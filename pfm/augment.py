"""Light augmentation of a batch of stored images, on the device; off by default, as in the paper.

Letters: B batch, C colour channels, H and W pixels.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pfm.options import option


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is varied in training images."""

    shift: int = option(0, "Shift each training image by up to this many stored pixels each way.", minimum=0)
    hflip: bool = option(False, "Mirror half of the training images left to right.")


def augment(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """(B, C, H, W) uint8 -> the same shape, each image shifted (edges repeated) and mirrored at random.

    Args:
        generator: on the CPU; one draw of each kind for the whole batch.
    """
    if config.shift:
        images = _shifted(images, config.shift, generator)
    if config.hflip:
        mirrored = torch.rand(len(images), generator=generator).lt(0.5).to(images.device)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return images


def _shifted(images: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    batch, _, height, width = images.shape
    offsets = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(images.device)
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(images.dtype)
    rows = offsets[0, :, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = offsets[1, :, None] + torch.arange(width, device=images.device)  # (B, W)
    batch_index = torch.arange(batch, device=images.device)[:, None, None]
    # advanced indices around a slice put the channels last: (B, H, W, C)
    return padded[batch_index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
