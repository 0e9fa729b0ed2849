"""Where the inputs of a run are kept, and how they get to the model.

Stored images are uint8. Where all of them fit, they are moved to the device once and a batch is an
index; otherwise worker processes gather batches into pinned memory.

Letters: B batch.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pfm.data.config import FeedConfig
from pfm.data.splits import Split
from pfm.seeds import make_generator

# the share of a GPU's free memory that the data may take
DEVICE_SHARE = 0.3


class Feed:
    """The images of one split, by index, on the device."""

    def __init__(self, split: Split, device: torch.device, config: FeedConfig) -> None:
        self.device = device
        self.num_workers = config.num_workers
        self.is_resident = config.data_on == "device" or (config.data_on == "auto" and _fits(split.inputs, device))
        self._inputs = split.inputs.to(device) if self.is_resident else split.inputs

    def __len__(self) -> int:
        return len(self._inputs)

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, C, H, W) uint8."""
        if self.is_resident:
            return self._inputs[index.to(self.device, non_blocking=True)]
        return self._inputs[index].to(self.device, non_blocking=True)

    def batches(self, indices: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
        """The images of one batch after another, gathered ahead where they are kept in host memory."""
        if self.is_resident or not indices:
            yield from map(self, indices)
            return
        loader: DataLoader[torch.Tensor] = DataLoader(
            _Gather(self._inputs),
            batch_sampler=[index.tolist() for index in indices],
            collate_fn=_as_it_is,  # a batch is gathered whole
            num_workers=self.num_workers,
            pin_memory=self.device.type == "cuda",
            generator=make_generator("workers"),  # their seed, which nothing uses, is not to come from torch's own
        )
        for inputs in loader:
            yield inputs.to(self.device, non_blocking=True)


def _fits(inputs: torch.Tensor, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return inputs.nbytes < DEVICE_SHARE * free


class _Gather(Dataset[torch.Tensor]):
    """Batches of a tensor."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, index: list[int]) -> torch.Tensor:
        return self.inputs[torch.tensor(index)]


def _as_it_is(batch: Any) -> torch.Tensor:
    return batch
