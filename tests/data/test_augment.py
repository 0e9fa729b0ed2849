"""Augmentation against one image at a time."""

import torch
from torch.nn import functional as F

from pfm.data.config import AugmentConfig
from pfm.data.images import ImageStorage
from pfm.seeds import make_generator

PREPROCESS = ImageStorage(8).default_preprocess((3, 8, 8))
IMAGES = torch.randint(0, 256, (40, 3, 6, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def augment(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    return PREPROCESS.draw_augmentation(len(images), config, generator)(images)


def test_off_by_default() -> None:
    assert torch.equal(augment(IMAGES, AugmentConfig(), make_generator(0)), IMAGES)


def test_every_shifted_image_is_a_window_of_the_padded_one_and_all_windows_occur() -> None:
    shifted = augment(IMAGES, AugmentConfig(shift=1), make_generator(0))
    padded = F.pad(IMAGES.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    offsets = set()
    for image, wide in zip(shifted, padded, strict=True):
        fits = [(y, x) for y in range(3) for x in range(3) if torch.equal(image, wide[:, y : y + 6, x : x + 5])]
        assert len(fits) == 1
        offsets.add(fits[0])
    assert len(offsets) == 9


def test_about_half_of_the_images_are_mirrored() -> None:
    mirrored = augment(IMAGES, AugmentConfig(hflip=True), make_generator(0))
    flags = [torch.equal(a, b.flip(-1)) for a, b in zip(mirrored, IMAGES, strict=True)]
    assert all(flag or torch.equal(a, b) for flag, a, b in zip(flags, mirrored, IMAGES, strict=True))
    assert 10 <= sum(flags) <= 30


def test_a_share_of_the_images_is_varied_as_within_the_whole() -> None:
    drawn = PREPROCESS.draw_augmentation(40, AugmentConfig(shift=2, hflip=True), make_generator(0))
    rows = torch.arange(40)[1::3]
    assert torch.equal(drawn.rows(rows)(IMAGES[rows]), drawn(IMAGES)[rows])
