"""The prompt bank: one learned prompt per class, in one tensor.

Letters: B batch, C classes, s prompts an example sees, m tokens per prompt, D hidden size.

One tensor and not a dictionary of parameters: a class that is absent from a step still has a
gradient (zero), which is what DDP needs.
"""

import torch
from torch import nn

from pfm.model.decoys import Decoys, decoy_prompts


class PromptBank(nn.Module):
    """Prompts (C, m, D), initialised N(0, 1)."""

    def __init__(self, num_classes: int, num_tokens: int, hidden_size: int) -> None:
        super().__init__()
        self.prompts = nn.Parameter(torch.randn(num_classes, num_tokens, hidden_size))

    def everyone(self, batch_size: int) -> torch.Tensor:
        """All prompts for each example, (B, C·m, D)."""
        return self.prompts.flatten(0, 1).expand(batch_size, -1, -1)

    def gather(self, ids: torch.Tensor) -> torch.Tensor:
        """The prompts of classes `ids` (B, s), in that order, as (B, s·m, D)."""
        return self.prompts[ids].flatten(1, 2)

    def with_decoys(self, there: torch.Tensor, drawn: Decoys) -> torch.Tensor:
        """Prompts (B, s·m, D) with decoys behind them, (B, (s + d)·m, D)."""
        size = self.prompts.detach().flatten(1).norm(dim=1).mean()
        return torch.cat([there, decoy_prompts(there, size, drawn)], dim=1)
