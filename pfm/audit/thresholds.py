"""Membership inference with one threshold on one score: confidence, loss, entropy, modified entropy.

Each is two-sided. A model that was made to be uniform about a class memorises that as well, and is then
*more* uniform on training samples than on others; an attacker flips the sign.

Letters: N samples, C classes.
"""

from typing import TypedDict

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


class AttackFigures(TypedDict):
    """What a threshold on a score tells, whichever side of it members are on.

    Keys:
        auc: of "higher means member", with its bootstrap interval; below ½ the attacker flips the sign.
        advantage: the area above ½ after the flip, 0 to ½.
        tpr_at_1pct, tpr_at_01pct: true positive rate of the better side, at these false positive rates.
    """

    auc: float
    auc_low: float
    auc_high: float
    advantage: float
    num_members: int
    num_others: int
    tpr_at_1pct: float
    tpr_at_01pct: float


def attack(members: torch.Tensor, others: torch.Tensor, generator: torch.Generator) -> AttackFigures:
    """Attack by a threshold on scores of members and of others, (N,) and (N′,)."""
    area = figures.auc(members, others)
    low, high = figures.auc_interval(members, others, generator)
    return {
        "auc": area,
        "auc_low": low,
        "auc_high": high,
        "advantage": abs(area - 0.5),
        "num_members": len(members),
        "num_others": len(others),
        "tpr_at_1pct": _better_side(members, others, 0.01),
        "tpr_at_01pct": _better_side(members, others, 0.001),
    }


def _better_side(members: torch.Tensor, others: torch.Tensor, rate: float) -> float:
    return max(figures.tpr_at_fpr(members, others, rate), figures.tpr_at_fpr(-members, -others, rate))
