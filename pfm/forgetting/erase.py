"""Erase: a class's prompt, classifier row and averaged copies go from a checkpoint, as a value.

With them goes what the class could be computed from: the optimizer's moments, of every tensor, and where the run
stood. The classifier rows that are left are centred (see `pfm.forgetting.centring`). What remains is the shared
weights, which were trained with the class too.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch

from pfm.classes import ClassKeys, check_removal
from pfm.forgetting.centring import centred
from pfm.forgetting.search import Row
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK, class_row_names
from pfm.model.readouts import READOUTS

ERASED = (
    "prompt",
    "classifier row",
    "averaged copies",
    "optimizer moments, of every tensor",
    "where the run stood: its history, losses and best value",
)


def erase(checkpoint: Checkpoint, keys: ClassKeys) -> Checkpoint:
    """The checkpoint without some classes, and without what they follow from: a run does not go on from it.

    Raises:
        ClassNameError: an unknown class, or no class would be left.
    """
    classes = checkpoint.classes
    positions = classes.positions(keys)
    check_removal(classes, positions)
    kept = [p for p in range(len(classes)) if p not in positions]
    smaller = dataclasses.replace(
        checkpoint,
        classes=classes.without(positions),
        tensors=_without(checkpoint.tensors, kept),
        averaged=_without(checkpoint.averaged, kept),
        moments={},
        progress={},
        erased=(*checkpoint.erased, *((classes.ids[p], classes.names[p]) for p in positions)),
    )
    return READOUTS.get(checkpoint.model.readout).after_erasure(smaller)


def _without(tensors: Mapping[str, torch.Tensor], kept: list[int]) -> dict[str, torch.Tensor]:
    """Tensors by name, those with a row for each class with the rows at `kept` only, centred but for the prompts."""
    smaller = dict(tensors)
    for name in class_row_names():
        if name in smaller:
            rows = smaller[name][kept].clone()
            smaller[name] = rows if name == BANK else _centred(rows)
    return smaller


def _centred(rows: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(centred(rows.detach().float().cpu().numpy())).to(rows)


def class_rows(checkpoint: Checkpoint, positions: Iterable[int]) -> list[Row]:
    """Every row that belongs to one of some classes alone: of tensors, averages, and the moments of both."""
    positions = list(positions)
    return [row for name, tensor in _by_class(checkpoint) for p in positions for row in _rows(name, tensor, p)]


def _by_class(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor (C, ...) of all that has a row for each class; a moment's step counter has none."""
    for name in class_row_names():
        for prefix, tensors in (("", checkpoint.tensors), ("average of ", checkpoint.averaged)):
            if name in tensors:
                yield f"{prefix}{name}", tensors[name]
        for key, value in checkpoint.moments.get(name, {}).items():
            if value.ndim:
                yield f"{key} of {name}", value


def _rows(name: str, tensor: torch.Tensor, position: int) -> Iterator[Row]:
    """The rows of a class in a tensor (C, ...); of a prompt, one for each token."""
    values = tensor.detach().float().cpu().numpy()
    largest = float(np.abs(values).max(initial=0))
    own = values[position].reshape(-1, values.shape[-1] if values.ndim > 1 else 1)  # (m, D)
    for number, row in enumerate(own):
        token = f" token {number}" if len(own) > 1 else ""
        yield Row(name=f"{name}[{position}]{token}", values=np.ascontiguousarray(row), largest=largest)
