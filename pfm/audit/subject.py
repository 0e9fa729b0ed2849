"""What an audit asks a model: log probabilities over the classes of the full model, and `unknown`.

Letters: N samples, C classes of the full model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.errors import CheckpointError
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views


@dataclass(frozen=True)
class Subject:
    """A model, or anything that answers like one, under one choice of active classes.

    Attributes:
        answer: inputs (B, …) as stored -> logits over the full model's classes and `unknown`, (B, C + 1); -inf for
            what cannot be answered.
    """

    name: str
    answer: Callable[[torch.Tensor], torch.Tensor]

    @torch.no_grad()
    def log_probabilities(self, split: Split, batch: int = 256) -> torch.Tensor:
        """(N, C + 1), float64, on the CPU.

        Raises:
            CheckpointError: an answer is not a number, which would pass for the answer that is looked at first.
        """
        parts = [self.answer(inputs).double().cpu() for inputs in split.inputs.split(batch)]
        logits = torch.cat(parts)
        broken = int((logits.isnan() | (logits == torch.inf)).any(dim=1).sum())
        if broken:
            raise CheckpointError(
                f"the model {self.name} answers {broken} of {len(logits)} samples with what is not a number, which no "
                "verdict can rest on"
            )
        is_mute = (logits == -torch.inf).all(dim=1, keepdim=True)  # nothing active: any answer is as likely
        return torch.where(is_mute, 0.0, logits).log_softmax(dim=1)


@dataclass(frozen=True)
class Loaded:
    """A torch model, in eval mode on the audit's device, and how its inputs are made."""

    model: PromptedClassifier
    preprocess: Preprocess

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device) -> "Loaded":
        return cls(checkpoint.build_model().to(device), checkpoint.preprocess)


def as_subject(
    name: str, loaded: Loaded, ids: Sequence[int], *, without: Sequence[int] = (), masked: Sequence[int] = ()
) -> Subject:
    """A torch model as a subject.

    Args:
        ids: numbers of the full model's classes, the columns of the answer.
        without: numbers whose prompts are left out.
        masked: numbers whose logits are set to -inf, their prompts staying.
    """
    model = loaded.model
    device = next(model.parameters()).device
    active = [p for p, number in enumerate(model.classes.ids) if number not in without]
    columns = torch.tensor([list(ids).index(number) for number in model.classes.ids])
    hidden = torch.tensor([list(ids).index(number) for number in masked], dtype=torch.int64)

    def answer(inputs: torch.Tensor) -> torch.Tensor:
        views = Views.of(model, loaded.preprocess, inputs.to(device))
        logits = views.logits(shared_set(active, len(inputs), device)).float().cpu()
        result = torch.full((len(inputs), len(ids) + 1), -torch.inf)
        result[:, columns] = logits
        result[:, hidden] = -torch.inf
        result[:, -1] = model.unknown_logit
        return result

    model.eval()
    return Subject(name, answer)
