"""A model whose tensors FSDP2 shares out among the processes: whole tensors out of it, whole tensors into it.

Everything here leaves a model that is not sharded as it is.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds only its part of the parameters."""
    return isinstance(model, FSDPModule)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor; of a sharded one, every process has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shared_out(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, the same on every process, laid out as `like` is and on its device."""
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements) if isinstance(like, DTensor) else value


@contextlib.contextmanager
def whole(model: nn.Module, *, reshard_after_forward: bool) -> Iterator[None]:
    """Every process holds all parameters while the block runs, and may call any part of the model, or none.

    Args:
        reshard_after_forward: what holds outside of the block.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    model.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        model.set_reshard_after_forward(reshard_after_forward)
