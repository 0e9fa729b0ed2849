"""The numbers that attacks and models are judged by, each with its interval.

Letters: N samples, C classes, R bootstrap replicates. Everything is computed in float64.
"""

import math
from collections.abc import Callable

import torch

REPLICATES = 1000
LEVEL = 0.95


def wins(members: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(N members, N others): 1 where the member scores higher, ½ on a tie, nan where a score is not a number."""
    own, other = members.double()[:, None], others.double()[None, :]
    won = (own > other).double() + 0.5 * (own == other).double()
    return won.masked_fill(own.isnan() | other.isnan(), math.nan)


def auc(members: torch.Tensor, others: torch.Tensor) -> float:
    """Area under the ROC curve of scores that are to be higher for members (Mann–Whitney)."""
    return float(wins(members, others).mean()) if len(members) and len(others) else math.nan


def auc_interval(
    members: torch.Tensor, others: torch.Tensor, generator: torch.Generator, replicates: int = REPLICATES
) -> tuple[float, float]:
    """Bootstrap interval of `auc`, both sides resampled."""
    return interval(auc_replicates(members, others, generator, replicates))


def auc_replicates(
    members: torch.Tensor, others: torch.Tensor, generator: torch.Generator, replicates: int = REPLICATES
) -> torch.Tensor:
    """(R,) areas under the curve of resampled members and others."""
    table = wins(members, others)
    drawn = draw_counts(len(members), replicates, generator) @ table  # (R, N others)
    drawn = (drawn * draw_counts(len(others), replicates, generator)).sum(dim=1)
    return drawn / (len(members) * len(others))


def draw_counts(size: int, replicates: int, generator: torch.Generator) -> torch.Tensor:
    """(R, size) how often each of `size` samples is drawn in each replicate, drawn with replacement."""
    index = torch.randint(size, (replicates, size), generator=generator)
    return torch.zeros(replicates, size, dtype=torch.float64).scatter_add_(1, index, torch.ones_like(index).double())


def interval(replicates: torch.Tensor, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of bootstrap replicates (R,)."""
    edge = (1 - level) / 2
    low, high = torch.quantile(replicates.double(), torch.tensor([edge, 1 - edge], dtype=torch.float64)).tolist()
    return low, high


def share_interval(hits: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    if count == 0:
        return 0.0, 1.0
    z = 1.959964
    share, shrink = hits / count, 1 + z * z / count
    middle = (share + z * z / (2 * count)) / shrink
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / shrink
    return max(0.0, middle - half), min(1.0, middle + half)


def roc(members: torch.Tensor, others: torch.Tensor) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    thresholds = torch.cat([members, others]).double().unique().flip(0)
    false = (others.double()[None] >= thresholds[:, None]).double().mean(dim=1)
    true = (members.double()[None] >= thresholds[:, None]).double().mean(dim=1)
    return [0.0, *false.tolist()], [0.0, *true.tolist()]


def tpr_at_fpr(members: torch.Tensor, others: torch.Tensor, rate: float) -> float:
    """The largest true positive rate at a false positive rate of at most `rate`."""
    false, true = roc(members, others)
    return max(t for f, t in zip(false, true, strict=True) if f <= rate)


def normalised_entropy(log_p: torch.Tensor) -> torch.Tensor:
    """H(p) / ln of the number of possible answers, (N,); 1 where there is one answer only.

    Args:
        log_p: (N, C) log probabilities, -inf for what cannot be answered.
    """
    possible = log_p > -torch.inf
    terms = torch.where(possible, log_p, 0.0) * log_p.exp()
    count = possible.sum(dim=1)
    return torch.where(count > 1, -terms.sum(dim=1) / count.clamp_min(2).log(), 1.0)


def js_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Jensen–Shannon divergence (N,) in nats, 0 to ln 2."""
    p, q = log_p.double().exp(), log_q.double().exp()
    middle = (p + q) / 2

    def kl(a: torch.Tensor) -> torch.Tensor:
        return torch.where(a > 0, a * (a.clamp_min(1e-300).log() - middle.clamp_min(1e-300).log()), 0.0).sum(dim=1)

    return (kl(p) + kl(q)) / 2


def calibration_error(log_p: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error over equally wide bins of confidence (Guo et al., 2017)."""
    confidence, answer = log_p.double().exp().max(dim=1)
    right = (answer == labels).double()
    which = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
    gap = torch.zeros(bins, dtype=torch.float64).scatter_add_(0, which, right - confidence)
    return float(gap.abs().sum() / len(labels))


def log_odds(logits: torch.Tensor, own: int) -> torch.Tensor:
    """ln p / (1 - p) of one answer, (..., C) -> (...): in the order of its probability, and never rounded to 0 or 1.

    Logits that are multiplied by a large number give the same answers and probabilities that are nearly all 0 or 1. As
    scores these would tie, and any area could be had by choosing that number.
    """
    wide = logits.double()
    others = torch.cat([wide[..., :own], wide[..., own + 1 :]], dim=-1)
    return wide[..., own] - others.logsumexp(dim=-1)


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> float:
    """Linear centred kernel alignment of two representations (N, D) and (N, E) of the same samples.

    Kornblith et al., 2019 (arXiv 1905.00414).
    """
    x, y = x.double() - x.double().mean(dim=0), y.double() - y.double().mean(dim=0)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((x.T @ y).square().sum() / scale) if scale > 0 else math.nan


def mean_interval(
    values: torch.Tensor,
    generator: torch.Generator,
    statistic: Callable[[torch.Tensor], torch.Tensor] = lambda means: means,
) -> tuple[float, float]:
    """Bootstrap interval of a mean over (N,) values."""
    counts = draw_counts(len(values), REPLICATES, generator)
    return interval(statistic(counts @ values.double() / len(values)))
