"""The paper's readout: a linear classifier on CLS, one row a class (Hendrix et al., 2025, arXiv 2509.15230)."""

import torch
from torch import nn
from torch.nn import functional as F

from pfm.backbones.backbone import SUMMARY
from pfm.model.readouts.base import Readout, Weights


class Cls(Readout):
    """Every class has a logit, whether its prompt is there or not."""

    class_rows = ("classifier.weight", "classifier.bias")
    graph_inputs = ("class_weight", "class_bias")
    graph_output = "logits"
    scores_absent = True

    def parts(self, hidden_size: int, num_classes: int) -> dict[str, nn.Module]:
        return {"classifier": nn.Linear(hidden_size, num_classes)}

    def reads(self, num_own: int) -> slice:
        return SUMMARY

    def weights(self, model: nn.Module) -> Weights:
        return model.get_parameter("classifier.weight"), model.get_parameter("classifier.bias")

    def score(
        self, outputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, prompt_tokens: int
    ) -> torch.Tensor:
        """(B, 1, D) and rows (C, D), (C,) -> (B, C); rows (B, C, D), (B, C) are each example's own."""
        if weight.ndim == 3:
            return (weight @ outputs[:, 0].unsqueeze(2)).squeeze(2) + bias
        return F.linear(outputs[:, 0], weight, bias)

    def score_with_new(
        self, outputs: torch.Tensor, weights: Weights, row: torch.Tensor, *, prompt_tokens: int, new_tokens: int
    ) -> torch.Tensor:
        old = self.score(outputs, *weights, prompt_tokens=prompt_tokens)
        new = self.score(outputs, row[:, None, :-1], row[:, -1:], prompt_tokens=new_tokens)
        return torch.cat([old, new], dim=1)

    def by_class(self, scores: torch.Tensor, present: torch.Tensor, num_classes: int) -> torch.Tensor:
        return scores


CLS = Cls()
