"""A model whose tensors FSDP2 shares out among the processes: whole tensors out of it, whole tensors into it.

Everything here leaves a model that is not sharded as it is.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only its part of the parameters."""
    return _is_fsdp(model)


def _is_fsdp(module: nn.Module) -> "TypeGuard[FSDPModule]":
    return _is_a(module, "torch.distributed.fsdp", "FSDPModule")


def _is_dtensor(tensor: torch.Tensor) -> "TypeGuard[DTensor]":
    return _is_a(tensor, "torch.distributed.tensor", "DTensor")


def _is_a(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class whose module takes a second to import; nothing is, while nobody has imported it."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor; of a sharded one, every process has to ask."""
    return tensor.full_tensor() if _is_dtensor(tensor) else tensor


def shared_out(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on every process, laid out as `like` is and on its device."""
    value = value.to(like.device)
    if not _is_dtensor(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, like.device_mesh, like.placements)


@contextlib.contextmanager
def whole(model: nn.Module, *, reshard_after_forward: bool) -> Iterator[None]:
    """Every process holds all parameters while the block runs, and may call any part of the model, or none.

    Args:
        reshard_after_forward: what holds outside of the block.
    """
    parts = [part for part in model.modules() if _is_fsdp(part)]
    if not _is_fsdp(model):
        yield
        return
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        model.set_reshard_after_forward(reshard_after_forward)
