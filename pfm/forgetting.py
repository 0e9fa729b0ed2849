"""Three levels of forgetting, and the record of an erasure.

- *suspend*: a prompt is left out of one active set. Reversible; no byte changes. (`active_positions`)
- *erase*: the class's prompt, classifier row and optimizer moments are gone from the artifact that
  is written. What remains is the shared weights, which were trained with the class too.
- *scrub*: the shared weights are retuned without the class's data. (Not built yet.)
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from pfm import ledger
from pfm.checkpoint import Checkpoint, Moments, save_checkpoint
from pfm.classes import ClassList, check_removal
from pfm.errors import ClassNameError, ConfigError, StorageError
from pfm.model import CLASS_ROWS
from pfm.storage import sha256

REMAINS = (
    "the shared weights (adapters and whatever else is not per class) were trained with samples of the erased "
    "classes too; erasing does not change them",
    "other copies of the source file (backups, earlier epochs, exports) are out of reach",
)


def active_positions(classes: ClassList, suspended: Iterable[str | int]) -> list[int]:
    """Positions that stay active when some classes are suspended.

    Raises:
        ClassNameError: an unknown class, or all of them.
    """
    away = classes.positions(suspended)
    if len(away) == len(classes):
        raise ClassNameError("every class is suspended; leave at least one active")
    return [position for position in range(len(classes)) if position not in away]


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
        return tensor[kept].clone() if name in CLASS_ROWS and tensor.ndim else tensor

    moments: Moments = {
        name: {key: rows(name, value) for key, value in state.items()} for name, state in checkpoint.moments.items()
    }
    return dataclasses.replace(
        checkpoint,
        classes=classes.without(positions),
        tensors={name: rows(name, tensor) for name, tensor in checkpoint.tensors.items()},
        averaged={name: rows(name, tensor) for name, tensor in checkpoint.averaged.items()},
        moments=moments,
        progress={},  # a run does not go on from here: its data holds the class
        erased=(*checkpoint.erased, *((classes.ids[p], classes.names[p]) for p in positions)),
    )


def erased_path(source: Path, checkpoint: Checkpoint, positions: list[int]) -> Path:
    """The default name of what `pfm forget` writes."""
    numbers = "-".join(str(checkpoint.classes.ids[p]) for p in positions)
    return source.with_name(f"{source.stem}_without_{numbers}{source.suffix}")


def erase_file(
    source: Path,
    checkpoint: Checkpoint,
    keys: Iterable[str | int],
    target: Path,
    *,
    reason: str = "",
    requested_by: str = "",
) -> dict[str, Any]:
    """Write `target` without the classes and add a line to `ledger.jsonl` beside it.

    Args:
        checkpoint: what was read from `source`, which is left as it is.

    Returns:
        The record, as written.
    """
    if target.resolve() == source.resolve():
        raise ConfigError(f"{target} is the source itself; write to another file, then delete the source")
    if target.exists():
        raise StorageError(f"{target} exists; choose another file with --out, or delete it first")
    positions = checkpoint.classes.positions(keys)
    record = target.parent / "ledger.jsonl"
    ledger.read(record)  # a broken chain is to be seen to before anything is added to it
    save_checkpoint(target, erase(checkpoint, keys))
    return ledger.append(
        record,
        {
            "action": "erase",
            "classes": [{"id": checkpoint.classes.ids[p], "name": checkpoint.classes.names[p]} for p in positions],
            "source": {"file": source.name, "sha256": sha256(source)},
            "target": {"file": target.name, "sha256": sha256(target)},
            "erased": [
                "prompt",
                "classifier row",
                "optimizer moments",
                *(["averaged copies"] if checkpoint.averaged else []),
            ],
            "remains": list(REMAINS),
            "reason": reason,
            "requested_by": requested_by,
        },
    )
