"""The robust membership inference attack (RMIA): Zarifzadeh et al., 2024 (arXiv 2312.03262).

Letters: N samples, M samples of the population, S shadow models.
"""

import torch


def scores(
    target: torch.Tensor,
    shadows: torch.Tensor,
    target_population: torch.Tensor,
    shadows_population: torch.Tensor,
    *,
    gamma: float = 1.0,
) -> torch.Tensor:
    """Share (N,) of the population that the sample beats in likelihood ratio by a factor of gamma.

    Args:
        target: (N,) probability the attacked model gives to the sample's answer.
        shadows: (S, N) the same of the shadow models, half of which had the sample in training.
        target_population: (M,); shadows_population: (S, M) the same for samples of the population.
    """
    tiny = 1e-30
    own = target.double() / shadows.double().mean(dim=0).clamp_min(tiny)  # (N,) p(x | theta) / p(x)
    others = target_population.double() / shadows_population.double().mean(dim=0).clamp_min(tiny)  # (M,)
    return (own[:, None] >= gamma * others[None, :]).double().mean(dim=1)
