"""Prototypes: the class's mean feature is made a row, and nothing is trained (Ha et al., 2025, arXiv 2506.01318).

Letters: N samples, E features, A draws of the attacker's samples, n samples each.
"""

import torch
from torch.nn import functional as F


def scores(features: torch.Tensor, samples: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
    """Cosine (A, N) of each feature with each prototype, both seen from the retained samples' mean.

    Args:
        features: (N, E); samples: (A, n, E) what each attack has of the class; centre: (E,).
    """
    prototypes = F.normalize(samples.double().mean(dim=1) - centre.double(), dim=1)  # (A, E)
    return prototypes @ F.normalize(features.double() - centre.double(), dim=1).T
