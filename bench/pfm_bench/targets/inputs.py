"""Random inputs for a bundle's graph."""

from typing import Any

import numpy as np


def random_inputs(manifest: dict[str, Any], batch_size: int) -> np.ndarray:
    """What the graph takes, such as (B, 3, S, S) float32 or (B, S, S, 3) uint8, S the backbone's where left open."""
    size = manifest["preprocess"].get("size")  # of sounds nothing is left open
    shape = (batch_size, *(size if isinstance(side, str) else side for side in manifest["input"]["shape"][1:]))
    random = np.random.default_rng(0)
    if manifest["input"]["dtype"] == "uint8":
        return random.integers(0, 256, shape, dtype=np.uint8)
    return random.standard_normal(shape, dtype=np.float32)
