"""How much an audit attacks, and the samples it asks about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pfm.data.splits import ClassificationData, Split


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """How much is attacked, and how long.

    Attributes:
        sizes: how many samples of the class an attacker has, each in turn.
        tokens: how many new prompt tokens an attacker learns, each in turn.
        epsilon: how far the resurrection gap and the other gaps may be from zero.
    """

    sizes: tuple[int, ...] = (1, 10)
    tokens: tuple[int, ...] = (1,)
    attack_seeds: int = 5
    attack_steps: int = 150
    attack_lr: float = 0.05
    shadows: int = 4
    oracles: int = 1
    epsilon: float = 0.05
    seed: int = 0


QUICK = AuditConfig()
FULL = AuditConfig(
    sizes=(0, 1, 5, 10, 50, 10**9), tokens=(1, 5, 10), attack_seeds=10, attack_steps=400, shadows=16, oracles=3
)


@dataclass(frozen=True)
class Groups:
    """The samples an audit asks about: of the forgotten classes and of the others, trained on and not."""

    forget_train: Split
    forget_test: Split
    retain_train: Split
    retain_test: Split

    @classmethod
    def of(cls, data: ClassificationData, positions: Sequence[int]) -> "Groups":
        gone = torch.tensor(list(positions))

        def part(split: Split, is_gone: bool) -> Split:
            return split.subset((torch.isin(split.labels, gone) == is_gone).nonzero()[:, 0])

        return cls(part(data.train, True), part(data.test, True), part(data.train, False), part(data.test, False))

    def items(self) -> Iterator[tuple[str, Split]]:
        """Each group by its name, in this order."""
        yield from vars(self).items()

    def sides(self) -> Iterator[tuple[str, Split, Split]]:
        """What was trained on and what was not, of the forgotten classes and of the others."""
        yield "forget", self.forget_train, self.forget_test
        yield "retain", self.retain_train, self.retain_test
