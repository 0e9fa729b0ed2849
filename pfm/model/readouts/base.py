"""What a readout has to say of itself.

Letters: B batch, C classes in the bank, s prompts an example sees, m tokens per prompt, P tokens that are read,
D hidden size.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from pfm.exact.config import ExactConfig

if TYPE_CHECKING:  # they are built with readouts
    from pfm.model.checkpoint import Checkpoint
    from pfm.model.classifier import PromptedClassifier
    from pfm.model.config import ModelConfig

Weights = tuple[torch.Tensor, torch.Tensor]


class Readout(ABC):
    """A readout: which tokens are read, which rows a class owns, and how scores come of both.

    Attributes:
        class_rows: the model's parameters that have a row for each class, beside the prompts.
        graph_inputs: what a graph takes beside the prompts, a row for each class.
        graph_output: what a graph calls its scores.
        scores_absent: whether a class is scored also where its prompt is absent.
        sees_prompts: whether the prompts enter the transformer; else there are none, and the trunk is all of it.
        procedure: how a model with it is trained, a name of `pfm.training.procedures.PROCEDURES`.
        stored: buffers that a checkpoint holds beside the trained tensors.
        measures_input: whether mean and deviation of the input may be measured on the training data.
        holds_out: whether a threshold for `unknown` is chosen on samples that are kept out of training.
        row_scale: what a row is multiplied by where somebody learns one by steps; outputs may be far from 1.
        meanings: what inference modes are, in words, where they are not what they are with prompts.
        erasure_is_exact: whether a model without a class is the one that never saw it.
    """

    class_rows: ClassVar[tuple[str, ...]] = ()
    graph_inputs: ClassVar[tuple[str, ...]] = ()
    graph_output: ClassVar[str]
    scores_absent: ClassVar[bool]
    sees_prompts: ClassVar[bool] = True
    procedure: ClassVar[str] = "steps"
    stored: ClassVar[tuple[str, ...]] = ()
    measures_input: ClassVar[bool] = True
    holds_out: ClassVar[bool] = True
    row_scale: ClassVar[float] = 1.0
    meanings: ClassVar[Mapping[str, str]] = {}
    erasure_is_exact: ClassVar[bool] = False

    # --- what it makes of the options ---------------------------------------------------------------

    def misfit(self, config: ModelConfig) -> str:
        """Why it does not go with the other options of a model, as a sentence; "" where it does."""
        given = [f.name for f in dataclasses.fields(ExactConfig) if getattr(config, f.name) != f.default]
        options = ", ".join(f"--{name}" for name in given)
        return f"{options}: for --readout ridge only; leave it out" if given else ""

    def settled(self, config: ModelConfig) -> ModelConfig:
        """The options as the model is built and stored with."""
        return config

    # --- what it is made of ---------------------------------------------------------------------------

    def parts_of(self, model: PromptedClassifier) -> dict[str, nn.Module]:
        """The modules it adds to a model, by name, which has its backbone and classes by then."""
        return self.parts(model.backbone.hidden_size, model.num_classes)

    def row_size(self, model: PromptedClassifier) -> int:
        """Numbers of a class's row, and of a token of a prompt."""
        return model.backbone.hidden_size

    def num_tokens(self, model: PromptedClassifier) -> int:
        """T, the tokens that the trunk makes of an input, at the most."""
        return model.backbone.num_own

    def trunk(self, model: PromptedClassifier, inputs: torch.Tensor) -> torch.Tensor:
        """Tokens (B, T, D) before the prompts enter: the same whichever prompts are present."""
        return model.backbone.run_blocks(model.backbone.embed(inputs), 0, model.config.prompt_layer)

    def read(
        self, model: PromptedClassifier, tokens: torch.Tensor, prompts: torch.Tensor, key_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Outputs (B, P, D) of the tokens that are read; see `PromptedClassifier.read`."""
        positions = self.reads(tokens.shape[1])
        joined = torch.cat([tokens, prompts.to(tokens.dtype)], dim=1)  # (B, T + s·m, D)
        start, is_normalised = model.config.prompt_layer, bool(model.config.final_norm)
        return model.backbone.read(
            joined, start, positions, key_mask, is_normalised=is_normalised, num_own=tokens.shape[1]
        )

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

    def after_erasure(self, checkpoint: Checkpoint) -> Checkpoint:
        """What an erasure does to the rows that are left: nothing, unless they are a function of the samples left.

        Args:
            checkpoint: without the classes, their rows and moments already.
        """
        return checkpoint

    def bank_rows(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """What a bundle's bank holds of the classes beside their prompts: kind -> (C, …)."""
        return {name.rpartition(".")[2]: model.get_parameter(name).detach() for name in self.class_rows}
