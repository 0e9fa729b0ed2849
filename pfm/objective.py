"""Cross-entropy with the own prompt there, KL to uniform with it absent.

Every loss is returned per example, (B,), so that the mean is taken over the global batch whatever
the number of processes.

Letters: B batch, C classes. With the `prompt` readout an absent class has the logit -inf.
"""

import torch
from torch.nn import functional as F


def present_loss(logits: torch.Tensor, labels: torch.Tensor, *, has_unknown: bool) -> torch.Tensor:
    """Cross-entropy (B,) with the label; `unknown`, a fixed logit 0, competes where the model has it."""
    if has_unknown:
        logits = _with_unknown(logits)
    return F.cross_entropy(logits, labels, reduction="none")


def absent_loss(logits: torch.Tensor, *, has_unknown: bool) -> torch.Tensor:
    """The loss (B,) of examples whose own prompt is absent.

    Uniform target: KL(u ‖ p) with u uniform over the classes that have a logit, and nothing where
    none has. With `unknown`: cross-entropy to that answer.
    """
    if has_unknown:
        unknown = torch.full((len(logits),), logits.shape[1], device=logits.device)
        return F.cross_entropy(_with_unknown(logits), unknown, reduction="none")
    active = logits > -torch.inf  # (B, C)
    count = active.sum(dim=1)
    # a row with no active class has no distribution: give it one, and then no weight
    log_p = F.log_softmax(torch.where(count[:, None] > 0, logits, 0.0), dim=1)
    size = count.clamp_min(1)
    mean_log_p = torch.where(active, log_p, 0.0).sum(dim=1) / size
    return torch.where(count > 0, -mean_log_p - size.log(), 0.0)


def _with_unknown(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
