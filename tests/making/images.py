"""Images whose colour tells the class."""

from pathlib import Path
from typing import Any

import numpy as np


def coloured_images(count: int, *, num_classes: int = 4, size: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, size, size, 3) whose colour tells the class, and labels (count, 1), as MedMNIST stores them."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % num_classes
    colours = np.array([[220, 40, 40], [40, 220, 40], [40, 40, 220], [128, 128, 128]])[labels % 4]
    noise = random.integers(-30, 30, (count, size, size, 3))
    return (colours[:, None, None] + noise).clip(0, 255).astype(np.uint8), labels[:, None].astype(np.uint8)


def write_npz(
    path: Path, *, num_classes: int = 4, train: int = 64, test: int = 22, size: int = 8, **changes: Any
) -> Path:
    """A file in MedMNIST's layout; `changes` replace or add arrays, None removes one."""
    arrays: dict[str, Any] = {}
    for split, count in (("train", train), ("test", test)):
        images, labels = coloured_images(count, num_classes=num_classes, size=size, seed=len(split))
        arrays |= {f"{split}_images": images, f"{split}_labels": labels}
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return path
