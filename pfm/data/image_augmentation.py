"""Light augmentation of a batch of stored images, on the device; off by default, as in the paper.

What happens to each image is drawn first, for the whole global batch, and applied by each process to
its share, so that the same seed varies the same images the same way whatever the number of processes.

Letters: B batch, C colour channels, H and W pixels.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pfm.data.config import ImageAugmentConfig


@dataclass(frozen=True)
class ImageAugmentation:
    """What is done to each image of a batch.

    Attributes:
        reach: most pixels of a shift; 0 for none.
        offsets: (B, 2) shift down and right, counted from -reach.
        mirrored: (B,) bool; None where none is.
    """

    reach: int
    offsets: torch.Tensor | None
    mirrored: torch.Tensor | None

    @classmethod
    def draw(cls, count: int, config: ImageAugmentConfig, generator: torch.Generator) -> "ImageAugmentation":
        """Draw for `count` images.

        Args:
            generator: on the CPU.
        """
        offsets = torch.randint(0, 2 * config.shift + 1, (count, 2), generator=generator) if config.shift else None
        mirrored = torch.rand(count, generator=generator).lt(0.5) if config.hflip else None
        return cls(config.shift, offsets, mirrored)

    def rows(self, index: torch.Tensor) -> "ImageAugmentation":
        """The part for some images."""
        return ImageAugmentation(
            self.reach,
            None if self.offsets is None else self.offsets[index],
            None if self.mirrored is None else self.mirrored[index],
        )

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) uint8 -> the same shape, each image shifted (edges repeated) and mirrored."""
        if self.offsets is not None:
            images = _shifted(images, self.reach, self.offsets.to(images.device, non_blocking=True))
        if self.mirrored is not None:
            mirrored = self.mirrored.to(images.device, non_blocking=True)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        return images


def _shifted(images: torch.Tensor, reach: int, offsets: torch.Tensor) -> torch.Tensor:
    batch, _, height, width = images.shape
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(images.dtype)
    rows = offsets[:, 0, None] + torch.arange(height, device=images.device)  # (B, H)
    columns = offsets[:, 1, None] + torch.arange(width, device=images.device)  # (B, W)
    batch_index = torch.arange(batch, device=images.device)[:, None, None]
    # advanced indices around a slice put the channels last: (B, H, W, C)
    return padded[batch_index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
