"""The likelihood ratio attack (LiRA): Carlini et al., 2022 (arXiv 2112.03570).

Letters: N samples, S shadow models.
"""

import torch


def stable_logit(log_p: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """phi = ln(p / (1 - p)) (N,) of the label's probability, or of the largest where there is no label left."""
    log_p = log_p.double()
    chosen = log_p.argmax(dim=1) if labels is None else labels
    own = log_p.gather(1, chosen[:, None]).squeeze(1)
    others = log_p.scatter(1, chosen[:, None], -torch.inf).logsumexp(dim=1)
    return (own - others).clamp(-60, 60)


def scores(target: torch.Tensor, shadows: torch.Tensor, is_in: torch.Tensor, *, min_for_own: int = 64) -> torch.Tensor:
    """Log likelihood ratio (N,): was the sample in the target's training set?

    Args:
        target: (N,) phi of the model under attack.
        shadows: (S, N) phi of models trained on random halves.
        is_in: (S, N) bool, whether that half held the sample; each sample is in some and out of some.
        min_for_own: with fewer shadow models on a side, all samples share one variance, as in the paper.
    """
    mean_in, var_in = _fit(shadows.double(), is_in, min_for_own)
    mean_out, var_out = _fit(shadows.double(), ~is_in, min_for_own)
    return _log_density(target.double(), mean_in, var_in) - _log_density(target.double(), mean_out, var_out)


def _fit(shadows: torch.Tensor, chosen: torch.Tensor, min_for_own: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance (N,) over the chosen shadow models."""
    count = chosen.sum(dim=0)  # (N,)
    assert bool((count > 0).all()), "a sample is in all shadow models, or in none"
    mean = (shadows * chosen).sum(dim=0) / count
    squares = ((shadows - mean) * chosen).square()
    shared = squares.sum() / (count - 1).clamp_min(0).sum().clamp_min(1)
    own = squares.sum(dim=0) / (count - 1).clamp_min(1)
    return mean, torch.where(count >= min_for_own, own, shared).clamp_min(1e-6)


def _log_density(value: torch.Tensor, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
    return -0.5 * ((value - mean).square() / variance + variance.log())
