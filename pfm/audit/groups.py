"""The samples an audit asks about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pfm.data.splits import ClassificationData, Split


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
