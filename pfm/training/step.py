"""One optimisation step: a batch and its draw in, named numbers out.

Letters: B examples of this process, b of them in a micro-batch, G examples of the global batch,
C classes in the bank.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from pfm.model.draws import branch_subsets
from pfm.seeds import make_generator
from pfm.training.objective import Objective


@dataclass(frozen=True)
class Batch:
    """This process's share of a global batch.

    Attributes:
        index: (B,) which examples.
        weight: (B,) what each counts in the global mean, 1 / G times its class's weight; 0 for one
            that only fills up an uneven share.
        mixed, wrong: (B, s) the prompts each example sees in the two branches.
        row_keys: (2, B) int32, of the dropout masks in the two branches.
    """

    index: torch.Tensor
    weight: torch.Tensor
    mixed: torch.Tensor
    wrong: torch.Tensor
    row_keys: torch.Tensor

    def __len__(self) -> int:
        return len(self.index)


def epoch_order(num_examples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the examples in one epoch, the same for every process."""
    return torch.randperm(num_examples, generator=make_generator(seed, "order", epoch))


def balanced_order(labels: torch.Tensor, weights: torch.Tensor, seed: int, epoch: int) -> torch.Tensor:
    """As many examples as there are labels (N,), drawn with replacement, each class equally often on average.

    Args:
        weights: (C,) as `pfm.training.objective.class_weights` makes them.
    """
    generator = make_generator(seed, "order", epoch)
    return torch.multinomial(weights[labels].double(), len(labels), replacement=True, generator=generator)


def own_rows(count: int, rank: int, world_size: int) -> tuple[torch.Tensor, int]:
    """Which rows of a global batch of `count` are this process's, and how many of those only fill up its share."""
    rows = torch.arange(count)[rank::world_size]  # none on some processes where count < world_size
    filled = -(-count // world_size) - len(rows)  # so that every process has equally many
    return torch.cat([rows, rows.new_zeros(filled)]), filled


def share(
    global_index: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    key: tuple[int, ...],
    rank: int,
    world_size: int,
    weights: torch.Tensor | None = None,
) -> Batch:
    """Draw the prompts for a global batch and take this process's share of it.

    The draw is made for the whole global batch on every process, so that the same seed gives the
    same examples the same prompts and dropout masks whatever the number of processes.

    Args:
        global_index: (G,) the examples of the global batch.
        labels: (G,) their positions in the bank.
        key: (seed, epoch, step), from which the draw is derived.
        weights: (C,) what an example of each class counts; None is 1 for all.
    """
    generator = make_generator(*key, "draw")
    mixed, wrong = branch_subsets(labels, num_classes, generator)
    count = len(global_index)
    row_keys = torch.randint(-(2**31), 2**31, (2, count), generator=generator).to(torch.int32)
    rows, filled = own_rows(count, rank, world_size)
    weight = torch.full((len(rows),), 1 / count)
    if weights is not None:
        weight = weight * weights[labels[rows]]
    weight[len(rows) - filled :] = 0
    return Batch(global_index[rows], weight, mixed[rows], wrong[rows], row_keys[:, rows])


def training_step(
    model: nn.Module,
    accelerator: Accelerator,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor | Callable[[slice], torch.Tensor],
    labels: torch.Tensor,
    batch: Batch,
    *,
    objective: Objective,
    micro_batch: int | None = None,
    max_grad_norm: float = 0.0,
    from_tokens: bool = False,
) -> dict[str, torch.Tensor]:
    """Forward, backward and update on both branches, of equal weight.

    Args:
        inputs: (B, …) model input on the device, or a function that makes the (b, …) of some rows.
        labels: (B,) positions in the bank, on the device.
        micro_batch: at most so many examples at a time; their gradients add up to those of the whole
            batch. None takes all at once.
        max_grad_norm: clip the norm of the whole gradient to this; 0 leaves it.
        from_tokens: the inputs are the trunk's tokens.

    Returns:
        This process's part of the global mean of each loss, detached and on the device:
        "loss", "present" (own prompt there), "absent" (own prompt not there).
    """
    device = labels.device
    moved = Batch(*(value.to(device, non_blocking=True) for value in vars(batch).values()))
    size = micro_batch or len(batch)
    count = math.ceil(len(batch) / size)
    total: dict[str, torch.Tensor] = {}
    for number in range(count):
        rows = slice(number * size, (number + 1) * size)
        is_last = number + 1 == count
        with contextlib.nullcontext() if is_last else accelerator.no_sync(model):
            part = inputs(rows) if callable(inputs) else inputs[rows]
            with accelerator.autocast():
                with_own, without_own = model(
                    part,
                    (moved.mixed[rows], moved.wrong[rows]),
                    row_keys=moved.row_keys[:, rows],
                    from_tokens=from_tokens,
                )
            parts = objective(with_own, without_own, labels[rows]).sums(moved.weight[rows])
            # DDP averages gradients over processes; ours are parts of one mean, so they are to be summed
            accelerator.backward(parts["loss"] * accelerator.num_processes)
        for name, value in parts.items():
            total[name] = total.get(name, 0) + value.detach()
    if max_grad_norm:
        accelerator.clip_grad_norm_(model.parameters(), max_grad_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total
