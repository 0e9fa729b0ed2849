"""A classifier whose forgetting is exact: regularised least squares on frozen features.

It keeps one sum and one product matrix per class. Removing a class subtracts them, and what is solved
then is, to rounding, what training without the class would have solved. It is the baseline that a
sceptic asks for: no learned feature, nothing left behind.

Letters: N samples, C classes, E features with a constant one.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Statistics:
    """Per class: features' products (C, E, E) and sums (C, E), float64."""

    products: torch.Tensor
    sums: torch.Tensor

    def without(self, positions: list[int]) -> "Statistics":
        """The same, some classes removed."""
        kept = [p for p in range(len(self.sums)) if p not in positions]
        return Statistics(self.products[kept], self.sums[kept])

    def solve(self, penalty: float, total: torch.Tensor | None = None) -> torch.Tensor:
        """Weights (E, C) of the regression onto one-hot labels.

        Args:
            penalty: of the squared weights, times the mean of the products' diagonal.
            total: (E, E) sum of the products, where it is known already.
        """
        total = self.products.sum(dim=0) if total is None else total
        ridge = penalty * total.diagonal().mean() * torch.eye(len(total), dtype=total.dtype)
        return torch.linalg.solve(total + ridge, self.sums.T)


def with_constant(features: torch.Tensor) -> torch.Tensor:
    """(N, D) -> (N, D + 1) float64, a column of ones behind."""
    return torch.cat([features.double(), features.new_ones(len(features), 1).double()], dim=1)


def collect(features: torch.Tensor, labels: torch.Tensor, num_classes: int) -> Statistics:
    """Sufficient statistics of (N, D) features by class."""
    rows = with_constant(features)
    by_class = [rows[labels == c] for c in range(num_classes)]
    return Statistics(torch.stack([x.T @ x for x in by_class]), torch.stack([x.sum(dim=0) for x in by_class]))


def remove(statistics: Statistics, positions: list[int], penalty: float) -> torch.Tensor:
    """Weights (E, C left) after the classes' statistics were subtracted from the sum over all classes."""
    total = statistics.products.sum(dim=0) - statistics.products[positions].sum(dim=0)
    return statistics.without(positions).solve(penalty, total)
