"""The samples that a model is evaluated on: their labels, and how the model comes to see them.

Letters: N samples, C classes in the bank.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from pfm.classes import ClassList
from pfm.data.config import FeedConfig
from pfm.data.feed import Feed
from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.errors import DataError
from pfm.model.views import Source, StoredInputs


def label_positions(classes: ClassList, data: ClassList, erased: Sequence[tuple[int, str]] = ()) -> torch.Tensor:
    """Position in the bank of each label of a data set, (number of labels,); -1 for an erased class.

    Classes are matched by name where the data set has all names, else by number where the counts agree.

    Raises:
        DataError: the data set is not one for these classes.
    """
    known = {*classes.names, *(name for _, name in erased)}
    if set(data.names) == known:
        return torch.tensor([classes.names.index(name) if name in classes.names else -1 for name in data.names])
    numbers = {*classes.ids, *(number for number, _ in erased)}
    if set(data.ids) == numbers:
        return torch.tensor([classes.ids.index(number) if number in classes.ids else -1 for number in data.ids])
    raise DataError(
        f"the data set's classes ({data.describe()}) are not the model's ({classes.describe()}); "
        "give the data set that the model was trained on"
    )


@dataclass(frozen=True)
class Samples:
    """What a model is evaluated on.

    Attributes:
        labels: (N,) positions in the bank, -1 where the class was erased.
        source: how the model comes to see the samples.
    """

    labels: torch.Tensor
    source: Source

    @classmethod
    def of(
        cls,
        split: Split,
        positions: torch.Tensor,
        preprocess: Preprocess,
        device: torch.device,
        feed: FeedConfig | None = None,
    ) -> Self:
        """A split's inputs, moved to the device where they fit.

        Args:
            positions: `label_positions` of the split's labels.
        """
        return cls(positions[split.labels], StoredInputs(Feed(split, device, feed or FeedConfig()), preprocess))

    def __len__(self) -> int:
        return len(self.labels)
