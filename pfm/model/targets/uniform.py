"""The paper's target without the own prompt: the uniform distribution over the classes that have a logit."""

import torch
from torch.nn import functional as F

from pfm.model.targets.base import Target


class Uniform(Target):
    """KL(u ‖ p) with u uniform over the classes that have a logit, and nothing where none has."""

    def absent_loss(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        active = without_own > -torch.inf  # (B, C)
        count = active.sum(dim=1)
        # a row with no active class has no distribution: give it one, and then no weight
        log_p = F.log_softmax(torch.where(count[:, None] > 0, without_own, 0.0), dim=1)
        size = count.clamp_min(1)
        mean_log_p = torch.where(active, log_p, 0.0).sum(dim=1) / size
        return torch.where(count > 0, -mean_log_p - size.log(), 0.0)


UNIFORM = Uniform()
