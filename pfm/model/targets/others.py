"""A target without the own prompt: what the model itself says of the other classes."""

import torch
from torch.nn import functional as F

from pfm.model.readouts.base import Readout
from pfm.model.targets.base import Target


class Others(Target):
    """KL(q ‖ p), with q the model's softmax with its own class masked and without gradient; every class has a logit.

    It stands for what a model that never saw the class would say, which is not uniform: a 3 looks like an 8.
    """

    imitates_retrained = True

    def misfit(self, readout: Readout) -> str:
        return "" if readout.scores_absent else "it scores only the prompts that are there; take --readout cls"

    def absent_loss(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = with_own.detach().scatter(1, labels[:, None], -torch.inf).softmax(dim=1)  # (B, C)
        return F.kl_div(F.log_softmax(without_own, dim=1), target, reduction="none").sum(dim=1)


OTHERS = Others()
