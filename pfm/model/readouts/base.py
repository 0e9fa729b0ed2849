"""What a readout has to say of itself.

Letters: B batch, C classes in the bank, s prompts an example sees, m tokens per prompt, P tokens that are read,
D hidden size.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

Weights = tuple[torch.Tensor, torch.Tensor]


class Readout(ABC):
    """A readout: which tokens are read, which rows a class owns, and how scores come of both.

    Attributes:
        class_rows: the model's parameters that have a row for each class, beside the prompts.
        graph_inputs: what a graph takes beside the prompts, a row for each class.
        graph_output: what a graph calls its scores.
        scores_absent: whether a class is scored also where its prompt is absent.
    """

    class_rows: ClassVar[tuple[str, ...]] = ()
    graph_inputs: ClassVar[tuple[str, ...]] = ()
    graph_output: ClassVar[str]
    scores_absent: ClassVar[bool]

    @abstractmethod
    def parts(self, hidden_size: int, num_classes: int) -> dict[str, nn.Module]:
        """The modules it adds to a model, by name."""

    @abstractmethod
    def reads(self, num_own: int) -> slice:
        """Which tokens are read, of the backbone's `num_own` tokens and the prompts behind them."""

    @abstractmethod
    def weights(self, model: nn.Module) -> Weights:
        """Weight and bias of a model, as `score` takes them."""

    @abstractmethod
    def score(
        self, outputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, prompt_tokens: int
    ) -> torch.Tensor:
        """Scores of what was read.

        Args:
            outputs: (B, P, D), of the tokens that are read.
            weight, bias: as `weights` gives them, or rows that somebody else made.
            prompt_tokens: m.

        Returns:
            (B, C) or (B, s), a score for each classifier row or each prompt.
        """

    @abstractmethod
    def score_with_new(
        self, outputs: torch.Tensor, weights: Weights, row: torch.Tensor, *, prompt_tokens: int, new_tokens: int
    ) -> torch.Tensor:
        """Scores of all classes and of one more, whose prompt stands behind those of the bank.

        Args:
            outputs: (B, P, D), every prompt of the bank there and the new one's tokens behind them.
            weights: as `weights` gives them.
            row: (B, D + 1) each example's own row of the new class, the bias last; not looked at without class rows.
            new_tokens: of the new prompt.

        Returns:
            (B, C + 1)
        """

    @abstractmethod
    def by_class(self, scores: torch.Tensor, present: torch.Tensor, num_classes: int) -> torch.Tensor:
        """Scores as `score` gives them -> logits (B, C), -inf where a class is not to be answered.

        Args:
            present: (B, s) positions of the prompts that are there.
        """

    def bank_rows(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a bundle's bank holds of the classes beside their prompts: kind -> (C, …)."""
        return {name.rpartition(".")[2]: model.get_parameter(name).detach() for name in self.class_rows}
