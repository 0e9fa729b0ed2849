"""Tensors in a temporary file without a name, so that nothing of the data stays on the disk."""

import tempfile

import numpy as np
import torch

from pfm.errors import StorageError, explain


def mapped_tensor(shape: tuple[int, ...], dtype: torch.dtype, what: str) -> torch.Tensor:
    """A tensor of zeros in a file that vanishes with the process, however that ends.

    Args:
        what: needs the room, for the error.

    Raises:
        StorageError: the folder for temporary files is full or cannot be written.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    try:
        with tempfile.TemporaryFile(prefix="pfm-") as file:
            mapped = np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,))
    except OSError as error:
        raise StorageError(
            f"cannot reserve {size / 2**20:,.0f} MiB for {what}: {explain(error)}; set TMPDIR to a folder with room"
        ) from error
    return torch.from_numpy(mapped).view(dtype).view(shape)
