"""The paper's readout: a linear classifier on CLS, one row a class (Hendrix et al., 2025, arXiv 2509.15230)."""

import torch
from torch import nn

from pfm.backbones.backbone import SUMMARY
from pfm.model.readouts.linear import LinearReadout


class Cls(LinearReadout):
    """Every class has a logit, whether its prompt is there or not."""

    class_rows = ("classifier.weight", "classifier.bias")
    scores_absent = True

    def parts(self, hidden_size: int, num_classes: int) -> dict[str, nn.Module]:
        return {"classifier": nn.Linear(hidden_size, num_classes)}

    def reads(self, num_own: int) -> slice:
        return SUMMARY

    def by_class(self, scores: torch.Tensor, present: torch.Tensor, num_classes: int) -> torch.Tensor:
        return scores


CLS = Cls()
