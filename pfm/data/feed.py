"""How the inputs of a split get to the model: from the device, where they are kept there, else gathered ahead.

Letters: B batch.
"""

from collections.abc import Iterator, Sequence

import torch

from pfm.data.config import FeedConfig
from pfm.data.place import fits_device
from pfm.data.rows import Rows
from pfm.data.splits import Split
from pfm.data.store import read_ahead

CHUNK = 256  # inputs that go to the device at a time


class Feed:
    """The inputs of one split, by index, on the device."""

    def __init__(self, split: Split, device: torch.device, config: FeedConfig) -> None:
        self.device = device
        self.num_workers = config.num_workers
        inputs = split.inputs
        self.is_resident = config.data_on == "device" or (
            config.data_on == "auto" and (device.type == "cpu" or fits_device(inputs.nbytes, device))
        )
        if isinstance(inputs, Rows):
            self.is_resident = self.is_resident and device.type != "cpu"  # the CPU's memory is the host's
        self._inputs = _moved(inputs, device) if self.is_resident else inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, …) as stored."""
        if self.is_resident:
            return self._inputs[index.to(self.device, non_blocking=True)]
        return self.rows(index).to(self.device, non_blocking=True)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, …) on the host, pinned where a GPU is to fetch them."""
        found = self._inputs[index]
        return found.pin_memory() if self.device.type == "cuda" else found

    def batches(self, indices: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The inputs of one batch after another, gathered ahead where they are not on the device."""
        if self.is_resident or not indices:
            yield from map(self, indices)
        elif isinstance(self._inputs, Rows):
            for found in self._inputs.batches(indices, self.num_workers):
                yield found.to(self.device)
        else:
            for found in read_ahead(self, indices, self.num_workers):
                yield found.to(self.device, non_blocking=True)


def _moved(inputs: torch.Tensor, device: torch.device) -> torch.Tensor:
    """All inputs on the device; rows that are not in memory a chunk at a time."""
    if not isinstance(inputs, Rows):
        return inputs.to(device)
    moved = torch.empty(inputs.shape, dtype=inputs.dtype, device=device)
    for start in range(0, len(inputs), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, len(inputs)))
        moved[start : start + CHUNK] = inputs[rows].to(device)
    return moved
