"""What readouts with a linear row a class share: each class's weight and bias, applied to the one output read."""

import torch
from torch import nn
from torch.nn import functional as F

from pfm.model.readouts.base import Readout, Weights


class LinearReadout(Readout):
    """`class_rows` names the weight (C, D) and the bias (C,)."""

    graph_inputs = ("class_weight", "class_bias")
    graph_output = "logits"

    def weights(self, model: nn.Module) -> Weights:
        weight, bias = self.class_rows
        return model.get_parameter(weight), model.get_parameter(bias)

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
