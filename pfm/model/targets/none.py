"""A target without the own prompt: an answer of its own that says "none of these"."""

import torch
from torch.nn import functional as F

from pfm.model.readouts.base import Readout
from pfm.model.targets.base import Target, smoothed_cross_entropy


class NoneOfThese(Target):
    """Cross-entropy to `unknown`, a fixed logit 0 that competes with every class in both branches."""

    unknown_logit = 0.0

    def misfit(self, readout: Readout) -> str:
        return "it has no score per prompt; take --readout prompt" if readout.scores_absent else ""

    def absent_loss(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        unknown = torch.full((len(without_own),), without_own.shape[1], device=without_own.device)
        return F.cross_entropy(_with_unknown(without_own), unknown, reduction="none")

    def present_loss(self, logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
        return smoothed_cross_entropy(_with_unknown(logits), labels, label_smoothing)


NONE_OF_THESE = NoneOfThese()


def _with_unknown(logits: torch.Tensor) -> torch.Tensor:
    """(B, C) -> (B, C + 1)"""
    return torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
