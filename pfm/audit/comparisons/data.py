"""The data as each compared model sees it: labels are positions in its bank, and what it must not see is left out.

Letters: C classes of the full model.
"""

import dataclasses
import zlib
from collections.abc import Sequence

import torch

from pfm.data.splits import ClassificationData, Split, hold_out_for_threshold
from pfm.evaluation.samples import label_positions
from pfm.model.checkpoint import Checkpoint


def by_position(data: ClassificationData, checkpoint: Checkpoint) -> ClassificationData:
    """The data with the checkpoint's classes, their positions as labels; samples of erased classes left out.

    What training held out is held out here too, so that nobody takes it for trained on.
    """
    data = hold_out_for_threshold(data, checkpoint.model.held_out_for)
    positions = label_positions(checkpoint.classes, data.classes, checkpoint.erased)
    return _relabelled(dataclasses.replace(data, classes=checkpoint.classes), positions)


def without_classes(data: ClassificationData, positions: Sequence[int]) -> ClassificationData:
    """The data as if some classes had never been in it."""
    less = dataclasses.replace(data, classes=data.classes.without(positions))
    return _relabelled(less, renumber(len(data.classes), positions))


def renumber(num_classes: int, positions: Sequence[int]) -> torch.Tensor:
    """(C,) new position of each class once some are gone; -1 for those."""
    kept = [p for p in range(num_classes) if p not in positions]
    new = torch.full((num_classes,), -1)
    new[torch.tensor(kept)] = torch.arange(len(kept))
    return new


def split_checksum(split: Split) -> list[int]:
    """Number and CRC-32 of a split's inputs and labels."""
    return [len(split), zlib.crc32(split.inputs.contiguous().numpy().data), zlib.crc32(split.labels.numpy().data)]


def _relabelled(data: ClassificationData, new: torch.Tensor) -> ClassificationData:
    """Every split with new labels (C,); samples whose label is -1 are left out."""

    val = None if data.val is None else data.val.relabelled(new)
    return dataclasses.replace(data, train=data.train.relabelled(new), test=data.test.relabelled(new), val=val)
