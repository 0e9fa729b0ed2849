"""Cross-entropy with the own prompt there, KL to uniform (or another target) with it absent.

Every loss is returned per example, (B,), so that the mean is taken over the global batch whatever
the number of processes.

Letters: B batch, C classes. With the `prompt` readout an absent class has the logit -inf.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch.nn import functional as F

from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.options import option


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """How examples and answers are weighted; the defaults are the paper's."""

    label_smoothing: float = option(
        0.0, "Share of the target spread evenly over the present classes (and `unknown`).", minimum=0.0
    )
    absent_weight: float = option(
        1.0,
        "Weight of the branch whose own prompt is absent; 0 trains without it, for a model that does not forget.",
        minimum=0.0,
    )
    balance: str = option(
        "none",
        "For skewed data: weigh each example by the inverse of its class's share, or draw each class equally often.",
        choices=("none", "weights", "sampling"),
    )

    def __post_init__(self) -> None:
        if self.label_smoothing >= 1:
            raise ConfigError(f"--label_smoothing {self.label_smoothing:g} leaves no target; give a value below 1")


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
        self._has_unknown, self._copies_others = model.has_unknown, model.copies_others

    @classmethod
    def over(cls, model: PromptedClassifier, config: ObjectiveConfig, labels: torch.Tensor) -> Self:
        """The objective of training on examples with these `labels` (N,), weighted where `balance` asks for it."""
        weights = class_weights(labels, model.num_classes) if config.balance == "weights" else None
        return cls(model, config, weights)

    def __call__(self, with_own: torch.Tensor, without_own: torch.Tensor, labels: torch.Tensor) -> Losses:
        """
        Args:
            with_own, without_own: logits (B, C) of the two branches, of any floating-point type.
            labels: (B,) positions in the bank.
        """
        with_own, without_own = with_own.float(), without_own.float()
        smoothing = self.config.label_smoothing
        present = present_loss(with_own, labels, has_unknown=self._has_unknown, label_smoothing=smoothing)
        target = others_target(with_own, labels) if self._copies_others else None
        absent = absent_loss(without_own, has_unknown=self._has_unknown, target=target)
        weight = None
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(labels.device)
            weight = self.class_weights[labels]
        return Losses(present, absent, weight, self.config.absent_weight)


def present_loss(
    logits: torch.Tensor, labels: torch.Tensor, *, has_unknown: bool, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy (B,) with the label; `unknown`, a fixed logit 0, competes where the model has it.

    With label smoothing (Szegedy et al., 2016) the spread share goes to what has a logit, not to
    absent classes.
    """
    if has_unknown:
        logits = _with_unknown(logits)
    loss = F.cross_entropy(logits, labels, reduction="none")
    if label_smoothing == 0:
        return loss
    active = logits > -torch.inf  # (B, C or C + 1)
    log_p = torch.where(active, F.log_softmax(logits, dim=1), 0.0)
    return (1 - label_smoothing) * loss - label_smoothing * log_p.sum(dim=1) / active.sum(dim=1)


def others_target(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the model says of the other classes (B, C): its softmax with the own class masked, without gradient.

    It stands for what a model that never saw the class would say, which is not uniform: a 3 looks like an 8.

    Args:
        logits: (B, C) with the own prompt there.
    """
    return logits.detach().scatter(1, labels[:, None], -torch.inf).softmax(dim=1)


def absent_loss(logits: torch.Tensor, *, has_unknown: bool, target: torch.Tensor | None = None) -> torch.Tensor:
    """The loss (B,) of examples whose own prompt is absent.

    Uniform target: KL(u ‖ p) with u uniform over the classes that have a logit, and nothing where
    none has. With `unknown`: cross-entropy to that answer. With a `target` (B, C): KL(target ‖ p), every class
    having a logit.
    """
    if target is not None:
        return F.kl_div(F.log_softmax(logits, dim=1), target, reduction="none").sum(dim=1)
    if has_unknown:
        unknown = torch.full((len(logits),), logits.shape[1], device=logits.device)
        return F.cross_entropy(_with_unknown(logits), unknown, reduction="none")
    active = logits > -torch.inf  # (B, C)
    count = active.sum(dim=1)
    # a row with no active class has no distribution: give it one, and then no weight
    log_p = F.log_softmax(torch.where(count[:, None] > 0, logits, 0.0), dim=1)
    size = count.clamp_min(1)
    mean_log_p = torch.where(active, log_p, 0.0).sum(dim=1) / size
    return torch.where(count > 0, -mean_log_p - size.log(), 0.0)


def _with_unknown(logits: torch.Tensor) -> torch.Tensor:
    return torch.cat([logits, logits.new_zeros(len(logits), 1)], dim=1)
