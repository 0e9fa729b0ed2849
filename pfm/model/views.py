"""What a model answers for a batch whose inputs are seen through one window or several.

An image is one window. A clip longer than the model's window is several, and its logits are their
mean, weighted by how many of its frames each holds.

Letters: B batch, C classes, T tokens, D hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from pfm.data.feed import Feed
from pfm.data.inputs import Preprocess
from pfm.model.classifier import PromptedClassifier

Tokens = TypeVar("Tokens")


class Views:
    """The trunk's tokens of a batch, window by window, ready for any number of active sets.

    Args:
        windows: tokens (B, T, D) and weights (B,), None where there is one window.
    """

    def __init__(self, model: PromptedClassifier, windows: Sequence[tuple[torch.Tensor, torch.Tensor | None]]) -> None:
        self.model = model
        self.windows = windows

    @classmethod
    def of(cls, model: PromptedClassifier, preprocess: Preprocess, stored: torch.Tensor) -> "Views":
        """Run the trunk over a batch (B, …) as stored, on the model's device."""
        return cls(model, [(model.trunk(inputs), weight) for inputs, weight in preprocess.windows(stored)])

    def logits(self, present: torch.Tensor) -> torch.Tensor:
        """(B, C) for the prompts that are `present`."""
        return averaged(self.windows, lambda tokens: self.model.head(tokens, present))


class Source(Protocol):
    """Where a model comes to see the samples of a split: their inputs, or what its trunk made of them before."""

    def views(self, model: PromptedClassifier, index: torch.Tensor) -> Views:
        """What the model sees of the samples at `index` (B,)."""
        ...


@dataclass(frozen=True)
class StoredInputs:
    """The inputs of a split as stored, and what makes them model input.

    Attributes:
        feed: by index, on the model's device.
    """

    feed: Feed
    preprocess: Preprocess

    def __len__(self) -> int:
        return len(self.feed)

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> model input (B, …); of a clip that is longer than the window, its first part."""
        return self.preprocess(self.feed(index))

    def views(self, model: PromptedClassifier, index: torch.Tensor) -> Views:
        return Views.of(model, self.preprocess, self.feed(index))


def averaged(
    windows: Sequence[tuple[Tokens, torch.Tensor | None]], answer: Callable[[Tokens], torch.Tensor]
) -> torch.Tensor:
    """The weighted mean of `answer` (B, C) over windows; what is -inf in one that counts is -inf."""
    if len(windows) == 1:
        return answer(windows[0][0])
    total: torch.Tensor | None = None
    for inputs, weight in windows:
        assert weight is not None, "several windows have weights"
        share = weight.unsqueeze(1)
        part = torch.where(share > 0, answer(inputs) * share, 0.0)
        total = part if total is None else total + part
    assert total is not None, "there is a window"
    return total
