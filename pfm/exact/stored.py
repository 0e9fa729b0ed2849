"""A memory as a checkpoint holds it: plain values, and tensors by name."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pfm.errors import CheckpointError
from pfm.exact.memory import Memory, Rows
from pfm.exact.recipe import Projection, Recipe

_ROWS = {"values": torch.int16, "labels": torch.int32, "groups": torch.int32,
         "content_ids": torch.uint8, "name_ids": torch.uint8}  # fmt: skip


def to_record(memory: Memory) -> dict[str, Any]:
    """Plain values; the projection and the tensors are apart."""
    return {
        "recipe": memory.recipe.to_dict(),
        "projection": memory.projection.sha256(),
        "classes": list(memory.classes),
        "counts": list(memory.counts),
        "hashes": list(memory.hashes),
        "groups": list(memory.groups),
        "memory": memory.keeps,
        "stored_shape": list(memory.stored_shape),
        "digest": memory.digest,
    }


def to_tensors(memory: Memory) -> dict[str, torch.Tensor]:
    """What is kept of the samples, and the key of their ids."""
    found: dict[str, torch.Tensor] = {}
    if memory.rows is not None:
        found = {f"rows.{name}": torch.from_numpy(getattr(memory.rows, name)) for name in _ROWS}
        found["key"] = torch.frombuffer(bytearray(memory.key), dtype=torch.uint8)
    for place, name in enumerate(memory.classes):
        if memory.sums is not None:
            found[f"sums.{place}"] = torch.from_numpy(memory.sums[name])
    return found


def from_stored(record: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], projection: Projection) -> Memory:
    """What both were made of.

    Raises:
        CheckpointError: they do not fit together.
    """
    try:
        keeps, classes = record["memory"], tuple(record["classes"])
        rows = None
        if keeps == "features":
            rows = Rows(**{name: _array(tensors[f"rows.{name}"], dtype) for name, dtype in _ROWS.items()})
        sums = None
        if keeps == "sums":
            sums = {name: _array(tensors[f"sums.{p}"], torch.int64) for p, name in enumerate(classes)}
        memory = Memory(
            recipe=Recipe.from_dict(record["recipe"]),
            projection=projection,
            classes=classes,
            counts=tuple(record["counts"]),
            hashes=tuple(record["hashes"]),
            rows=rows,
            sums=sums,
            groups=tuple(record["groups"]),
            key=bytes(tensors["key"].tolist()) if "key" in tensors else b"",
            stored_shape=tuple(record["stored_shape"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the memory of the exact readout is damaged ({type(error).__name__}: {error})"
        ) from error
    if memory.digest != record.get("digest"):
        raise CheckpointError("the memory of the exact readout is damaged: it does not have the digest that it states")
    return memory


def _array(tensor: torch.Tensor, dtype: torch.dtype) -> np.ndarray:
    if tensor.dtype != dtype:
        raise ValueError(f"{tensor.dtype} where {dtype} is expected")
    return tensor.numpy()
