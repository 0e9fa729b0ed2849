"""Where samples of the forgotten go, and with what confidence: before, after, and in retrained models."""

import html
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import picture, table
from pfm.audit.models import Models
from pfm.classes import UNKNOWN
from pfm.evaluation.pictures import draw_bars

SHOWN = 8  # classes of the picture


class Destination(TypedDict):
    """One answer that samples of the forgotten are given; shares and mean confidences in [0, 1].

    Keys:
        confidence: of the samples that are given it, 0 where none is.
        retrained: means over the retrained models.
    """

    name: str
    before: float
    after: float
    confidence: float
    retrained: float
    retrained_confidence: float


class Destinations:
    """Only reported: the divergence of the outputs is what is judged."""

    name = "destinations"
    about = "the answers, for test samples of the class"

    def measure(self, models: Models) -> Measurement[list[Destination]]:
        oracles = torch.cat([by_group["forget_test"] for by_group in models.answers_of_oracles])
        before, _ = _shares(models.answers["full"]["forget_test"])
        after, confidence = _shares(models.answers["forgotten"]["forget_test"])
        retrained, retrained_confidence = _shares(oracles)
        found = [
            Destination(name=name, before=before[i], after=after[i], confidence=confidence[i], retrained=retrained[i],
                        retrained_confidence=retrained_confidence[i])
            for i, name in enumerate((*models.full.classes.names, UNKNOWN))
            if max(before[i], after[i], retrained[i]) > 0
        ]  # fmt: skip
        return Measurement(sorted(found, key=lambda entry: -max(entry["after"], entry["retrained"])))

    def show(self, figures: list[Destination]) -> str:
        bars = {
            "after": {entry["name"]: entry["after"] for entry in figures[:SHOWN]},
            "retrained models": {entry["name"]: entry["retrained"] for entry in figures[:SHOWN]},
        }
        rows = [
            [html.escape(entry["name"]), *(f"{100 * share:.1f}" for share in
             (entry["before"], entry["after"], entry["confidence"], entry["retrained"],
              entry["retrained_confidence"]))]
            for entry in figures
        ]  # fmt: skip
        head = ["answered", "before %", "after %", "confidence %", "retrained %", "their confidence %"]
        return (
            "<h2>Where samples of the forgotten go</h2>"
            + picture("shares of answers", draw_bars(bars, ylabel="share of the samples"))
            + table(head, rows)
        )


def _shares(log_p: torch.Tensor) -> tuple[list[float], list[float]]:
    """Share of samples given each answer, and the mean confidence of those."""
    best, answer = log_p.exp().max(dim=1)
    counts = torch.bincount(answer, minlength=log_p.shape[1]).double()
    sums = torch.zeros_like(counts).scatter_add_(0, answer, best.double())
    return (counts / len(answer)).tolist(), (sums / counts.clamp_min(1)).tolist()
