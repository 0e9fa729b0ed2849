"""A target without the own prompt: what the model itself says of the other classes."""

import torch
from torch.nn import functional as F

from pfm.model.readouts.base import Readout
from pfm.model.targets.base import Target


class Others(Target):
    """KL(q ‖ p), with q the model's softmax with its own class masked and without gradient.

    It stands for what a model that never saw the class would say, which is not uniform: a 3 looks like an 8. Where a
    readout scores only the prompts that are there, both are taken over the classes that have a logit in both
    branches, so that taking an alternative away leaves the ratios of the others as they were; fewer than two say
    nothing.
    """

    def wants_nested(self, readout: Readout) -> bool:
        return not readout.scores_absent

    def absent_loss(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scored = (with_own > -torch.inf) & (without_own > -torch.inf)  # (B, C)
        asked = scored.scatter(1, labels[:, None], False)
        says = (asked.sum(dim=1) > 1)[:, None]  # (B, 1)
        # rows that say nothing get a distribution, and then no weight
        target = torch.where(asked | ~says, with_own.detach(), -torch.inf)
        target = torch.where(says, target, 0.0).softmax(dim=1)  # (B, C)
        log_p = F.log_softmax(torch.where(says, torch.where(scored, without_own, -torch.inf), 0.0), dim=1)
        loss = F.kl_div(torch.where(scored, log_p, 0.0), target, reduction="none").sum(dim=1)
        return torch.where(says[:, 0], loss, 0.0)


OTHERS = Others()
