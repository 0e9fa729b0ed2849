"""Erase: a class's prompt, classifier row and averaged copies go from a checkpoint, as a value.

With them goes what the class could be computed from: the optimizer's moments, of every tensor, and where the run
stood. The classifier rows that are left are centred, and their prompts where that is asked for or was done before (see
`pfm.forgetting.centring`). What remains is the shared weights, which were trained with the class too.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from pfm.classes import ClassKeys, check_removal
from pfm.forgetting.centring import centred, sums_to_zero
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


def erase(checkpoint: Checkpoint, keys: ClassKeys, *, centre_prompts: bool = False) -> Checkpoint:
    """The checkpoint without some classes, and without what they follow from: a run does not go on from it.

    Args:
        centre_prompts: the prompts that are left are moved to mean zero, so that their sum says nothing. Those that
            were centred before are centred again in any case.

    Raises:
        ClassNameError: an unknown class, or no class would be left.
    """
    classes = checkpoint.classes
    positions = classes.positions(keys)
    check_removal(classes, positions)
    kept = [p for p in range(len(classes)) if p not in positions]
    centre = centre_prompts or prompts_are_centred(checkpoint)
    smaller = dataclasses.replace(
        checkpoint,
        classes=classes.without(positions),
        tensors=_without(checkpoint.tensors, kept, centre),
        averaged=_without(checkpoint.averaged, kept, centre),
        moments={},
        progress={},
        erased=(*checkpoint.erased, *((classes.ids[p], classes.names[p]) for p in positions)),
    )
    return READOUTS.get(checkpoint.model.readout).after_erasure(smaller)


def without(checkpoint: Checkpoint, keys: Sequence[str | int], *, centre_prompts: bool) -> Checkpoint:
    """`erase`, also where no class is left to go; the checkpoint itself where there is nothing to do."""
    if keys:
        return erase(checkpoint, keys, centre_prompts=centre_prompts)
    return with_centred_prompts(checkpoint) if centre_prompts else checkpoint


def with_centred_prompts(checkpoint: Checkpoint) -> Checkpoint:
    """The same with its prompts, and their averages, moved to mean zero; one that a class was erased from before."""
    stored = [
        {name: _centred(tensor) if name == BANK else tensor for name, tensor in tensors.items()}
        for tensors in (checkpoint.tensors, checkpoint.averaged)
    ]
    return dataclasses.replace(checkpoint, tensors=stored[0], averaged=stored[1], moments={}, progress={})


def prompts_are_centred(checkpoint: Checkpoint) -> bool:
    """Whether the prompts sum to zero, as an erasure left them that centred them."""
    prompts = checkpoint.tensors.get(BANK)
    if prompts is None:
        return False
    return sums_to_zero(prompts.detach().float().cpu().numpy(), torch.finfo(prompts.dtype).eps)


def _without(tensors: Mapping[str, torch.Tensor], kept: list[int], centre_prompts: bool) -> dict[str, torch.Tensor]:
    """Tensors by name, those with a row for each class with the rows at `kept` only, centred; prompts if asked."""
    smaller = dict(tensors)
    for name in class_row_names():
        if name in smaller:
            rows = smaller[name][kept].clone()
            smaller[name] = rows if name == BANK and not centre_prompts else _centred(rows)
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
