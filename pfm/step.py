"""One optimisation step: a batch and its draw in, named numbers out.

Letters: B examples of this process, G examples of the global batch, C classes in the bank.
"""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from pfm.draws import make_generator, mixed_subset, wrong_subset
from pfm.objective import absent_loss, present_loss


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch.

    Attributes:
        index: (B,) which examples.
        weight: (B,) 1 / G for an example of its own, 0 for one that only fills up an uneven share.
        mixed, wrong: (B, s) the prompts each example sees in the two branches.
    """

    index: torch.Tensor
    weight: torch.Tensor
    mixed: torch.Tensor
    wrong: torch.Tensor


def epoch_order(num_examples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the examples in one epoch, the same for every process."""
    return torch.randperm(num_examples, generator=make_generator(seed, "order", epoch))


def share(
    global_index: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    key: tuple[int, ...],
    rank: int,
    world_size: int,
) -> Batch:
    """Draw the prompts for a global batch and take this process's share of it.

    The draw is made for the whole global batch on every process, so that the same seed gives the
    same examples the same prompts whatever the number of processes.

    Args:
        global_index: (G,) the examples of the global batch.
        labels: (G,) their positions in the bank.
        key: (seed, epoch, step), from which the draw is derived.
    """
    generator = make_generator(*key, "draw")
    mixed = mixed_subset(labels, num_classes, generator)
    wrong = wrong_subset(labels, num_classes, generator)
    count = len(global_index)
    rows = torch.arange(count)[rank::world_size]  # none on some processes where count < world_size
    filled = -(-count // world_size) - len(rows)  # so that every process has equally many
    weight = torch.cat([torch.full((len(rows),), 1 / count), torch.zeros(filled)])
    rows = torch.cat([rows, rows.new_zeros(filled)])
    return Batch(index=global_index[rows], weight=weight, mixed=mixed[rows], wrong=wrong[rows])


def training_step(
    model: nn.Module,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    labels: torch.Tensor,
    batch: Batch,
    *,
    has_unknown: bool,
) -> dict[str, torch.Tensor]:
    """Forward, backward and update on both branches, of equal weight.

    Args:
        inputs: (B, …) model input, on the device.
        labels: (B,) positions in the bank, on the device.

    Returns:
        This process's part of the global mean of each loss, detached and on the device:
        "loss", "present" (own prompt there), "absent" (own prompt not there).
    """
    device = inputs.device
    weight = batch.weight.to(device, non_blocking=True)
    presents = (batch.mixed.to(device, non_blocking=True), batch.wrong.to(device, non_blocking=True))
    with accelerator.autocast():
        with_own, without_own = model(inputs, presents)
    present = (present_loss(with_own.float(), labels, has_unknown=has_unknown) * weight).sum()
    absent = (absent_loss(without_own.float(), has_unknown=has_unknown) * weight).sum()
    loss = present + absent
    # DDP averages gradients over processes; ours are parts of one mean, so they are to be summed
    accelerator.backward(loss * accelerator.num_processes)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss.detach(), "present": present.detach(), "absent": absent.detach()}
