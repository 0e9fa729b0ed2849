"""Membership inference with one threshold on one score: confidence, loss, entropy, modified entropy.

Each is two-sided. A model that was made to be uniform about a class memorises that as well, and is then
*more* uniform on training samples than on others; an attacker flips the sign.

Letters: N samples, C classes.
"""

from typing import Any

import torch

from pfm.audit import figures


def confidence(log_p: torch.Tensor) -> torch.Tensor:
    """Largest probability (N,)."""
    return log_p.exp().amax(dim=1)


def negative_entropy(log_p: torch.Tensor) -> torch.Tensor:
    """-H(p) / ln C (N,): higher where the model is more certain."""
    return -figures.normalised_entropy(log_p)


def negative_loss(log_p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log probability of the label (N,); -inf where it cannot be answered."""
    return log_p.gather(1, labels[:, None]).squeeze(1)


def negative_modified_entropy(log_p: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-Mentr(p, y) (N,), Song and Mittal, 2021 (arXiv 2003.10595), equation 8.

    Mentr(p, y) = -(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i)
    """
    p = log_p.double().exp()
    own = p.gather(1, labels[:, None]).squeeze(1)
    tiny = 1e-30
    others = p * (1 - p).clamp_min(tiny).log()  # (N, C)
    others = others.scatter(1, labels[:, None], 0.0)
    return (1 - own) * own.clamp_min(tiny).log() + others.sum(dim=1)


def all_scores(log_p: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every score by name; those that need the label only where each label can be answered."""
    scores = {"confidence": confidence(log_p), "entropy": negative_entropy(log_p)}
    if bool((negative_loss(log_p, labels) > -torch.inf).all()):
        scores |= {
            "loss": negative_loss(log_p, labels),
            "modified_entropy": negative_modified_entropy(log_p, labels),
        }
    return scores


def attack(members: torch.Tensor, others: torch.Tensor, generator: torch.Generator) -> dict[str, Any]:
    """What a threshold on a score tells, whichever side of it members are on.

    Returns:
        auc: of "higher means member", with its bootstrap interval; below ½ the attacker flips the sign.
        advantage: the area above ½ after the flip, 0 to ½.
        tpr_at_1pct, tpr_at_01pct: true positive rate of the better side.
    """
    area = figures.auc(members, others)
    low, high = figures.auc_interval(members, others, generator)
    rates = {}
    for name, rate in (("tpr_at_1pct", 0.01), ("tpr_at_01pct", 0.001)):
        sides = (figures.tpr_at_fpr(members, others, rate), figures.tpr_at_fpr(-members, -others, rate))
        rates[name] = max(sides)
    return {
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "advantage": abs(area - 0.5),
        "num_members": len(members),
        "num_others": len(others),
        **rates,
    }
