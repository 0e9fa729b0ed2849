"""What a model is trained for: to answer with the own prompt there, and to meet its target with it absent.

Every loss is returned per example, so that the mean can be taken over the global batch whatever the number of
processes.

Letters: B batch, C classes in the bank, N training examples.
"""

from dataclasses import dataclass
from typing import Self

import torch

from pfm.model.classifier import PromptedClassifier
from pfm.model.passing import Passing
from pfm.training.config import ObjectiveConfig


def class_weights(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(C,) inverse of each class's share of `labels` (N,), scaled to a mean of 1 over the examples."""
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    return len(labels) / (num_classes * counts)


@dataclass(frozen=True)
class Losses:
    """The losses of a batch, example by example.

    Attributes:
        present: (B,) with the own prompt there.
        absent: (B,) without it.
        weight: (B,) what each example counts, None where all count 1.
        absent_weight: what `absent` counts beside `present`.
    """

    present: torch.Tensor
    absent: torch.Tensor
    weight: torch.Tensor | None
    absent_weight: float

    def mean(self) -> torch.Tensor:
        """The loss of the batch, ()."""
        present, absent = (
            (values if self.weight is None else values * self.weight).mean() for values in (self.present, self.absent)
        )
        return present + self.absent_weight * absent

    def sums(self, shares: torch.Tensor) -> dict[str, torch.Tensor]:
        """This batch's part of the mean over a larger one: "loss", "present" and "absent", each ().

        Args:
            shares: (B,) of each example in that mean, before weights.
        """
        if self.weight is not None:
            shares = shares * self.weight
        present, absent = (self.present * shares).sum(), (self.absent * shares).sum()
        return {"loss": present + self.absent_weight * absent, "present": present, "absent": absent}


class Objective:
    """What a model is trained for: both branches, weighted as the configuration says.

    Args:
        class_weights: (C,) what an example of each class counts; None is 1 for all.
    """

    def __init__(
        self, model: PromptedClassifier, config: ObjectiveConfig, class_weights: torch.Tensor | None = None
    ) -> None:
        self.config = config
        self.class_weights = class_weights
        self.target = model.target

    @classmethod
    def over(cls, model: PromptedClassifier, config: ObjectiveConfig, labels: torch.Tensor) -> Self:
        """The objective of training on examples with these `labels` (N,), weighted where `balance` asks for it."""
        weights = class_weights(labels, model.num_classes) if config.balance == "weights" else None
        return cls(model, config, weights)

    def passing(self, labels: torch.Tensor) -> Passing | None:
        """How much of the examples' gradient reaches other classes; None is all of it, as in the paper."""
        share = self.config.others_gradient
        return None if share == 1 else Passing(labels, share)

    def __call__(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> Losses:
        """
        Args:
            with_own, without_own: logits (B, C) of the two branches, of any floating-point type.
            labels: (B,) positions in the bank.
        """
        with_own, without_own = with_own.float(), without_own.float()
        present = self.target.present_loss(with_own, labels, self.config.label_smoothing)
        # only a target that is made of the first branch's answers heeds it
        answers = with_own / self.config.target_temperature
        absent = self.target.absent_loss(answers, without_own, labels)
        weight = None
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(labels.device)
            weight = self.class_weights[labels]
        return Losses(present, absent, weight, self.config.absent_weight)
