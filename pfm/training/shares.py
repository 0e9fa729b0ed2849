"""Which examples each process takes in each step, and what is drawn for them.

Everything is drawn from (seed, epoch, step) and for the whole global batch, on every process, so that the same seed
gives the same examples the same prompts and dropout masks whatever the number of processes.

Letters: N examples, B examples of this process in a step, G examples of the global batch, C classes in the bank.
"""

from dataclasses import dataclass

import torch

from pfm.device import Processes
from pfm.model.draws import branch_subsets
from pfm.seeds import make_generator


def epoch_order(num_examples: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of the examples in one epoch (N,), the same for every process."""
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


@dataclass(frozen=True)
class Share:
    """This process's share of a global batch.

    Attributes:
        rows: (B,) which rows of the global batch.
        index: (B,) which examples.
        mean_shares: (B,) of each example in the global mean, 1 / G; 0 for one that only fills up an uneven share.
        mixed, wrong: (B, s) the prompts each example sees in the two branches.
        row_keys: (2, B) int32, of the dropout masks in the two branches.
    """

    rows: torch.Tensor
    index: torch.Tensor
    mean_shares: torch.Tensor
    mixed: torch.Tensor
    wrong: torch.Tensor
    row_keys: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)


def draw_share(
    global_index: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    *,
    key: tuple[int, ...],
    processes: Processes,
    is_nested: bool = False,
) -> Share:
    """Draw the prompts for a global batch and take this process's share of it.

    Args:
        global_index: (G,) the examples of the global batch.
        labels: (G,) their positions in the bank.
        key: (seed, epoch, step), from which the draw is derived.
        is_nested: both branches see the same others.
    """
    generator = make_generator(*key, "draw")
    mixed, wrong = branch_subsets(labels, num_classes, generator, is_nested=is_nested)
    count = len(global_index)
    row_keys = torch.randint(-(2**31), 2**31, (2, count), generator=generator).to(torch.int32)
    rows, filled = own_rows(count, processes.rank, processes.world_size)
    mean_shares = torch.full((len(rows),), 1 / count)
    mean_shares[len(rows) - filled :] = 0
    return Share(rows, global_index[rows], mean_shares, mixed[rows], wrong[rows], row_keys[:, rows])
