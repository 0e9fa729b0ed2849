"""What a model in service answers for each sample: all classes there, and with the sample's own class removed.

As in a bundle or an erased file, a class that is away has neither prompt nor classifier row: only the others, and
`unknown` where the model has it, can be the answer.

Letters: N samples of the split, C classes in the bank, B samples of a batch.
"""

from dataclasses import dataclass

import torch

from pfm.device import Processes
from pfm.model.classifier import PromptedClassifier

ActiveSet = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ServedAnswers:
    """Answers to a whole split, on every process.

    Attributes:
        labels: (N,) positions in the bank, -1 where the class was erased.
        probabilities: (N, C) float64, all classes there; the rest to 1 is that of `unknown`.
        answers: (N,) positions, -1 for `unknown`, all classes there.
        without_own: (N,) the same with the sample's own class removed.
        sureness: (N,) float64, the probability of the answer, all classes there.
        sureness_without_own: (N,) the same with the sample's own class removed.
    """

    labels: torch.Tensor
    probabilities: torch.Tensor
    answers: torch.Tensor
    without_own: torch.Tensor
    sureness: torch.Tensor
    sureness_without_own: torch.Tensor


class Recorder:
    """Takes down what a model in service says, of the sets that `ServedAnswers` is about."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.logits: list[torch.Tensor] = []  # (B, C), of each batch
        self.without_own: list[torch.Tensor] = []

    def see(self, active: ActiveSet, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """What an active set of a batch gave; all sets of a batch come before those of the next.

        Args:
            logits: (B, C).
            labels: (B,) positions in the bank, -1 where the class was erased.
        """
        if len(active) == self.num_classes:
            self.logits.append(logits.float().cpu())
            self.without_own.append(torch.zeros(logits.shape))
        elif len(active) == self.num_classes - 1:
            (removed,) = set(range(self.num_classes)) - set(active)
            rows = (labels == removed).nonzero()[:, 0]
            if len(rows):
                own = logits[rows.to(logits.device)].float().cpu()
                own[:, removed] = -torch.inf
                self.without_own[-1][rows] = own

    def gathered(
        self, model: PromptedClassifier, labels: torch.Tensor, own: torch.Tensor, processes: Processes
    ) -> ServedAnswers:
        """The answers of all processes; each of them has to call it.

        Args:
            labels: (N,) of the split.
            own: which of the samples are this process's.
        """

        def everywhere(part: torch.Tensor) -> torch.Tensor:
            if processes.world_size == 1:
                return part
            whole = part.new_zeros((len(labels), *part.shape[1:]))
            whole[own] = part
            return processes.reduce(whole.to(processes.device)).cpu()

        none = torch.empty(0, self.num_classes)
        found: list[torch.Tensor] = []
        for logits in (torch.cat([*self.logits, none]), torch.cat([*self.without_own, none])):
            probabilities, answers, sureness = answered(model, logits)
            found += [everywhere(probabilities), everywhere(answers), everywhere(sureness)]
        return ServedAnswers(
            labels=labels, probabilities=found[0], answers=found[1], sureness=found[2], without_own=found[4],
            sureness_without_own=found[5],
        )  # fmt: skip


def answered(model: PromptedClassifier, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities (B, C) float64, answers (B,), -1 for `unknown`, and the probability of each answer (B,).

    Where a threshold makes it `unknown`, its probability is what the best class has not.
    """
    rival = torch.full((len(logits), 1), model.unknown_logit, dtype=torch.float64)
    whole = torch.cat([logits.double(), rival], dim=1)
    probabilities = whole.softmax(dim=1).nan_to_num(0.0)  # nothing to choose from
    best, winner = probabilities[:, :-1].max(dim=1)
    is_unknown = whole[:, -1] >= whole[:, :-1].amax(dim=1)
    sureness = torch.where(is_unknown, probabilities[:, -1], best)
    if model.unknown_below:
        is_unsure = ~is_unknown & (best < model.unknown_below)
        sureness, is_unknown = torch.where(is_unsure, 1 - best, sureness), is_unknown | is_unsure
    return probabilities[:, :-1], torch.where(is_unknown, -1, winner), sureness
