"""Residual exposure: which part of what learned from samples of the class stays after it is erased."""

from collections.abc import Sequence
from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import class_row_names


class ExposureFigures(TypedDict):
    """Numbers of parameters, and the share of the trained ones that stays."""

    trained: int
    erased: int
    residual: float


class Exposure:
    """Counts the parameters that are the class's own among all that were trained."""

    name = "exposure"
    about = "no attack: counts parameters"

    def measure(self, models: Models) -> Measurement[ExposureFigures]:
        return Measurement(exposure(models.full, models.positions))

    def show(self, figures: ExposureFigures) -> str:
        rows = [
            ["parameters erased, of all that learned from the class",
             f"{figures['erased']:,} of {figures['trained']:,}"],
            ["residual exposure", f"{figures['residual']:.4f}"],
        ]  # fmt: skip
        return "<h2>What stays</h2>" + table(["", ""], rows)


def exposure(full: Checkpoint, positions: Sequence[int]) -> ExposureFigures:
    """Count for the classes at some positions."""
    trained = sum(tensor.numel() for tensor in full.tensors.values())
    erased = sum(full.tensors[name][list(positions)].numel() for name in class_row_names() if name in full.tensors)
    return {"trained": trained, "erased": erased, "residual": 1 - erased / trained}
