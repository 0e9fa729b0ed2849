"""Scale: whether prompts, features and rows are of the size that the retrained models' are.

Attacks learn prompts and rows by steps of one size. A model whose residual stream is made a thousand times smaller, and
its rows as much larger, gives the same answers, and such steps do nothing in it: what it does not give back then says
nothing of what it knows.
"""

from collections.abc import Mapping
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.subject import Loaded
from pfm.audit.verdict import INCONCLUSIVE, PASS, by_number

MOST = 3.0  # times larger or smaller than the retrained models' mean; these differ by a few hundredths
SAMPLES = 256


class ScaleFigures(TypedDict):
    """Root mean squares by what they are of, the judged model's first; the retrained ones' behind."""

    prompts: list[float]
    features: list[float]
    rows: list[float]


class Scale:
    """Judged on retained test samples; what the readout does not have is left out."""

    name = "scale"
    about = "no attack: whether what attacks learn is of the size that it has in the model"

    def measure(self, models: Models) -> Measurement[ScaleFigures]:
        found = [scales_of(loaded, models) for loaded in (models.loaded["forgotten"], *models.loaded_oracles)]
        figures: ScaleFigures = {
            "prompts": [one["prompts"] for one in found],
            "features": [one["features"] for one in found],
            "rows": [one["rows"] for one in found],
        }
        what, ratio = furthest(figures)
        is_alike = ratio <= MOST
        told = f"its {what} are larger or smaller by {ratio:.3g} times than the retrained models', at most {MOST:g}"
        return Measurement(
            figures,
            (
                by_number(
                    "scrub", "scale", ratio, limit=MOST, verdict=PASS if is_alike else INCONCLUSIVE,
                    reason=told if is_alike else f"{told}; attacks whose steps are of one size say little of it",
                ),
            ),
        )  # fmt: skip

    def show(self, figures: ScaleFigures) -> str:
        del figures
        return ""  # the verdict's reason says it all


def furthest(figures: ScaleFigures) -> tuple[str, float]:
    """What differs most from the mean of the others, and by which factor; infinite for what is not a number."""
    ratios: dict[str, float] = {}
    sides: Mapping[str, list[float]] = {name: figures[name] for name in ("prompts", "features", "rows")}
    for name, (own, *others) in sides.items():
        mean = sum(others) / len(others)
        if own == mean == 0:  # which the readout has not
            continue
        ratio = max(own / mean, mean / own) if own > 0 and mean > 0 else float("inf")
        ratios[name] = ratio if ratio == ratio else float("inf")
    what = max(ratios, key=lambda name: ratios[name])
    return what, ratios[what]


@torch.no_grad()
def scales_of(loaded: Loaded, models: Models) -> dict[str, float]:
    """Of a model's prompts, of what its readout reads, and of its rows; 0 for what it has not."""
    model = loaded.model
    inputs = models.groups.retain_test.inputs[:SAMPLES].to(models.device)
    read = model.read(model.trunk(loaded.preprocess(inputs)), model.bank.everyone(len(inputs)))
    rows = model.readout.weights(model)[0] if model.readout.class_rows else read.new_zeros(1)
    return {"prompts": _size(model.bank.prompts), "features": _size(read), "rows": _size(rows)}


def _size(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt()) if values.numel() else 0.0
