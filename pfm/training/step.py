"""One optimisation step: a batch in, named numbers out."""

import contextlib

import torch
from accelerate import Accelerator
from torch import nn

from pfm.training.batches import Batch
from pfm.training.objective import Objective


def training_step(
    model: nn.Module,
    batch: Batch,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    *,
    max_grad_norm: float = 0.0,
) -> dict[str, torch.Tensor]:
    """Forward, backward and update on both branches.

    The gradients of the batch's parts add up to those of the whole batch, over all processes.

    Args:
        model: as the Accelerator prepared it.
        max_grad_norm: clip the norm of the whole gradient to this; 0 leaves it.

    Returns:
        This process's part of the global mean of each loss, detached and on the device:
        "loss", "present" (own prompt there), "absent" (own prompt not there).
    """
    totals: dict[str, torch.Tensor] = {}
    for number, part in enumerate(batch, start=1):
        with contextlib.nullcontext() if number == batch.num_parts else accelerator.no_sync(model):
            with accelerator.autocast():
                with_own, without_own = model(
                    part.inputs,
                    part.presents,
                    row_keys=part.row_keys,
                    from_tokens=part.from_tokens,
                    decoys=part.decoys,
                    passing=objective.passing(part.labels),
                )
            numbers = objective(with_own, without_own, part.labels).sums(part.mean_shares)
            # DDP averages gradients over processes; ours are parts of one mean, so they are to be summed
            accelerator.backward(numbers["loss"] * accelerator.num_processes)
        totals = {name: totals.get(name, 0) + value.detach() for name, value in numbers.items()}
    if max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return totals
