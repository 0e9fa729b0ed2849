"""What a target of the branch without the own prompt has to say of itself.

Every loss is returned per example, (B,), so that the mean is taken over the global batch whatever
the number of processes.

Letters: B batch, C classes. With the `prompt` readout an absent class has the logit -inf.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch.nn import functional as F

from pfm.model.readouts.base import Readout


class Target(ABC):
    """The target of examples whose own prompt is absent.

    Attributes:
        unknown_logit: the fixed logit of an `unknown` answer; -inf where the model has none.
    """

    unknown_logit: ClassVar[float] = -torch.inf

    def wants_nested(self, readout: Readout) -> bool:
        """Whether it compares the branches class by class, so that both are to see the same others."""
        del readout
        return False

    def misfit(self, readout: Readout) -> str:
        """Why it does not go with a readout, as the end of a sentence; "" where it does."""
        del readout
        return ""

    @abstractmethod
    def absent_loss(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss (B,) of examples whose own prompt is absent.

        Args:
            with_own, without_own: (B, C) logits with the own prompt there and without it.
            labels: (B,).
        """

    def present_loss(self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        """Cross-entropy (B,) of logits (B, C) with the label, the own prompt there."""
        return smoothed_cross_entropy(logits, labels, label_smoothing)


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Cross-entropy (B,); with label smoothing (Szegedy et al., 2016) the spread share goes to what has a logit."""
    loss = F.cross_entropy(logits, labels, reduction="none")
    if label_smoothing == 0:
        return loss
    active = logits > -torch.inf  # (B, C)
    log_p = torch.where(active, F.log_softmax(logits, dim=1), 0.0)
    return (1 - label_smoothing) * loss - label_smoothing * log_p.sum(dim=1) / active.sum(dim=1)
