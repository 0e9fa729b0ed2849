"""Decoys: prompts of no class, which training shows beside those that are there, and which are never right.

A model with a score for each prompt learns which of the prompts *there* an input belongs to, and nothing of prompts
that it never meets. What nobody else claims then goes to nearly any further prompt: to random ones, and most of all to
minus the sum of those that are there, which is a prompt for "none of these" and follows from what an erasure leaves.
Shown as decoys, both lose: only the key that a class was trained with opens it.

Letters: B batch, s prompts an example sees, d decoys, m tokens per prompt, D hidden size.
"""

from typing import NamedTuple

import torch

SMALLEST, LARGEST = 0.7, 3.0  # of random decoys, beside the mean prompt


class Decoys(NamedTuple):
    """What was drawn for one step, the same on every process.

    Attributes:
        directions: (d - 1, m, D) of random decoys, as long as they are to be beside the mean prompt.
        evens: () 1 where minus the sum is to be as large as a prompt, 0 where it stays as it is.
    """

    directions: torch.Tensor
    evens: torch.Tensor

    def to(self, device: torch.device) -> "Decoys":
        return Decoys(self.directions.to(device), self.evens.to(device))


def draw_decoys(shape: tuple[int, int, int], generator: torch.Generator) -> Decoys:
    """Decoys of a step.

    Args:
        shape: (d, m, D), d at least 1: the first is minus the sum of the prompts there, the others are random.
    """
    count = shape[0] - 1
    drawn = torch.randn(count, *shape[1:], generator=generator)
    sizes = SMALLEST + (LARGEST - SMALLEST) * torch.rand(count, generator=generator)
    directions = drawn * (sizes / drawn.flatten(1).norm(dim=1)).view(-1, 1, 1)
    return Decoys(directions, torch.randint(2, (), generator=generator).float())


def decoy_prompts(there: torch.Tensor, size: torch.Tensor, drawn: Decoys) -> torch.Tensor:
    """The decoys beside some prompts, (B, d·m, D); no gradient goes through them.

    Args:
        there: (B, s·m, D), s at least 1.
        size: () of the mean prompt.
    """
    tokens = drawn.directions.shape[1]
    total = -there.detach().unflatten(1, (-1, tokens)).sum(dim=1)  # (B, m, D)
    norms = total.flatten(1).norm(dim=1).clamp_min(1e-6).view(-1, 1, 1)
    total = total * (size / norms) ** drawn.evens
    random = (drawn.directions * size).flatten(0, 1).to(total)  # ((d - 1)·m, D)
    return torch.cat([total, random.expand(len(total), -1, -1)], dim=1)
