"""Each class is read at its own prompt, by one linear layer that all classes share.

The logits are those of the active prompts. Removing a prompt removes the output with it, and nothing else belongs to
a class.
"""

import torch
from torch import nn
from torch.nn import functional as F

from pfm.model.readouts.base import Readout, Weights


class Prompt(Readout):
    """A class whose prompt is absent has the logit -inf."""

    graph_output = "scores"
    scores_absent = False

    def parts(self, hidden_size: int, num_classes: int) -> dict[str, nn.Module]:
        return {"scorer": nn.Linear(hidden_size, 1)}

    def reads(self, num_own: int) -> slice:
        return slice(num_own, None)

    def weights(self, model: nn.Module) -> Weights:
        return model.get_parameter("scorer.weight"), model.get_parameter("scorer.bias")

    def score(
        self, outputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, prompt_tokens: int
    ) -> torch.Tensor:
        """(B, s·m, D) and the shared row (1, D), (1,) -> (B, s), the tokens of a prompt averaged."""
        if prompt_tokens > 1:
            outputs = outputs.unflatten(1, (-1, prompt_tokens)).mean(dim=2)  # (B, s, D)
        return F.linear(outputs, weight, bias).squeeze(-1)

    def score_with_new(
        self, outputs: torch.Tensor, weights: Weights, row: torch.Tensor, *, prompt_tokens: int, new_tokens: int
    ) -> torch.Tensor:
        num_bank = outputs.shape[1] - new_tokens
        old = self.score(outputs[:, :num_bank], *weights, prompt_tokens=prompt_tokens)
        new = self.score(outputs[:, num_bank:], *weights, prompt_tokens=new_tokens)
        return torch.cat([old, new], dim=1)

    def by_class(self, scores: torch.Tensor, present: torch.Tensor, num_classes: int) -> torch.Tensor:
        absent = scores.new_full((len(scores), num_classes), -torch.inf)
        return absent.scatter(1, present, scores)


PROMPT = Prompt()
