"""Whether a solved readout is what it says: its rows are solved again from what is kept; groups and samples sought."""

import numpy as np
import torch

from pfm.classes import listed
from pfm.errors import CheckpointError, ConfigError
from pfm.exact.memory import Memory
from pfm.exact.solve import TOLERANCE
from pfm.exact.stored import to_tensors
from pfm.exact.threshold import leave_one_out_threshold
from pfm.forgetting.content import can_be_solved
from pfm.forgetting.samples import Removal, find_each
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts.ridge import memory_of, rows_of


def misfits_of_solution(checkpoint: Checkpoint) -> list[str]:
    """Where a memory, or rows and threshold that should follow from it, are not what they say; nothing where none is.

    The sums of every class are made again on the way, and have to be those that the digest speaks of.
    """
    if not checkpoint.exact:
        return []
    try:
        memory = memory_of(checkpoint)
        wrong = [f"its memory has {name}, which nothing names" for name in {*checkpoint.memory} - {*to_tensors(memory)}]
        wrong += _misfits_of_rows(memory)
        if set(memory.classes) != set(checkpoint.classes.names):
            wrong.append(f"its memory is of {listed(memory.classes)}, and the list has other classes")
        if wrong or not can_be_solved(checkpoint):
            return wrong
        rows = rows_of(memory, checkpoint.classes.names)
    except CheckpointError as error:
        return [str(error)]
    wrong = [
        f"{name} is not what is solved from the memory in the file"
        for name, wanted in rows.items()
        if not _is_close(checkpoint.tensors[name], wanted)
    ]
    share = checkpoint.model.abstain
    if share and not np.isclose(checkpoint.unknown_below, leave_one_out_threshold(memory, share), rtol=TOLERANCE):
        wrong.append("the threshold for `unknown` is not that of the samples in the file")
    return wrong


def _misfits_of_rows(memory: Memory) -> list[str]:
    """Stored samples that belong to no class of the list, or not to as many as it says."""
    if memory.rows is None:
        return []
    inside = (memory.rows.labels >= 0) & (memory.rows.labels < len(memory.classes))
    counts = np.bincount(memory.rows.labels[inside], minlength=len(memory.classes))
    if not inside.all() or counts.tolist() != list(memory.counts):
        told = f"{int(inside.sum())} of its {len(inside)} stored samples are of classes in the list"
        return [f"{told}, which has {sum(memory.counts)}"]
    return []


def still_stored(checkpoint: Checkpoint, sought: Removal) -> list[str]:
    """Which of some groups and samples are in the memory of a checkpoint, in words.

    Raises:
        ConfigError: it keeps no samples, or no groups, and cannot say.
    """
    if not checkpoint.keeps_samples:
        raise ConfigError("it keeps no samples, so that whose it learned from cannot be told")
    found = find_each(checkpoint, sought)
    return [
        f"{int(is_meant.sum())} stored samples are of the {what} {name}" for (what, name), is_meant in found.items()
    ]


def cannot_tell(checkpoint: Checkpoint, sought: Removal) -> str:
    """Why some group or sample could be in a checkpoint and not be found there, in words; "" where that cannot be."""
    rows = memory_of(checkpoint).rows if checkpoint.keeps_samples else None
    if rows is None:
        return "it keeps no samples among which somebody could be looked for"
    count = int((rows.groups < 0).sum()) if sought.groups else 0
    return f"{count:,} of its stored samples are of no group, and nothing says whose they are" if count else ""


def _is_close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    scale = float(wanted.abs().max()) or 1.0
    return found.shape == wanted.shape and float((found - wanted).abs().max()) <= TOLERANCE * scale
