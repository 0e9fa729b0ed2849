"""Erase: a class's prompt, classifier row, averaged copies and optimizer moments go from a checkpoint, as a value.

What remains is the shared weights, which were trained with the class too.
"""

import dataclasses
from collections.abc import Iterable

import torch

from pfm.classes import check_removal
from pfm.model.checkpoint import Checkpoint, Moments
from pfm.model.classifier import class_row_names
from pfm.model.readouts import READOUTS

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def erase(checkpoint: Checkpoint, keys: Iterable[str | int]) -> Checkpoint:
    """The checkpoint without some classes: their prompts, classifier rows and optimizer moments.

    Raises:
        ClassNameError: an unknown class, or no class would be left.
    """
    classes = checkpoint.classes
    positions = classes.positions(keys)
    check_removal(classes, positions)
    kept = torch.tensor([p for p in range(len(classes)) if p not in positions])

    def rows(name: str, tensor: torch.Tensor) -> torch.Tensor:
        # a moment of the parameter has its rows; a step counter is a scalar
        return tensor[kept].clone() if name in class_row_names() and tensor.ndim else tensor

    moments: Moments = {
        name: {key: rows(name, value) for key, value in state.items()} for name, state in checkpoint.moments.items()
    }
    smaller = dataclasses.replace(
        checkpoint,
        classes=classes.without(positions),
        tensors={name: rows(name, tensor) for name, tensor in checkpoint.tensors.items()},
        averaged={name: rows(name, tensor) for name, tensor in checkpoint.averaged.items()},
        moments=moments,
        progress={},  # a run does not go on from here: its data holds the class
        erased=(*checkpoint.erased, *((classes.ids[p], classes.names[p]) for p in positions)),
    )
    return READOUTS.get(checkpoint.model.readout).after_erasure(smaller)


def class_rows(checkpoint: Checkpoint, positions: Iterable[int]) -> list[torch.Tensor]:
    """Every tensor that belongs to one of some classes alone: rows, averaged rows, and the moments of both."""
    names = class_row_names()
    whole = [tensor[name] for tensor in (checkpoint.tensors, checkpoint.averaged) for name in names if name in tensor]
    whole += [value for name in names for value in checkpoint.moments.get(name, {}).values() if value.ndim]
    return [tensor[position] for position in positions for tensor in whole]


def find_traces(content: bytes, rows: Iterable[torch.Tensor]) -> int:
    """How many of some rows are in the bytes of a file, as float32, float16 or bfloat16.

    A row too short or too uniform to tell from chance (a bias, moments that are still zero) is passed over.
    """
    found = 0
    for row in rows:
        for dtype in FLOAT_TYPES:
            values = row.to(dtype).contiguous().flatten()
            raw = values.view(torch.uint8).numpy().tobytes()
            if len(raw) >= 16 and values.unique().numel() >= 4 and raw in content:
                found += 1
    return found
