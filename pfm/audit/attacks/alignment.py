"""Alignment of features and classifier: whether features of the class point at an answer.

A class can be hidden by a classifier that no longer points where the features do, while the features still tell the
class (Gao et al., 2026, arXiv 2604.08271). Both are seen from the mean of the retained samples.
"""

from typing import TypedDict

import torch
from torch.nn import functional as F

from pfm.audit.attacks.attack import Measurement
from pfm.audit.comparisons.data import renumber
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.rule import Tolerance
from pfm.audit.sampled import Sampled, compare, mean_of
from pfm.audit.subject import Loaded
from pfm.audit.verdict import by_rule


class AlignmentFigures(TypedDict, total=False):
    """Mean cosines; nothing where the readout has no rows.

    Keys:
        forget: of a sample of the class with the row that is nearest to it, by model, the retrained ones behind.
        retain: of a retained sample with the row of its class.
    """

    forget: list[float]
    retain: list[float]


class Alignment:
    """Judged on samples of the class."""

    name = "alignment"
    about = "the weights and test samples of the class"

    def measure(self, models: Models) -> Measurement[AlignmentFigures]:
        if not models.loaded["forgotten"].model.readout.class_rows:
            return Measurement({})
        pairs = [_alignment(models, loaded) for loaded in (models.loaded["forgotten"], *models.loaded_oracles)]
        found = compare(pairs[0][0], [own for own, _ in pairs[1:]], Tolerance.COSINE)
        what = "cosine of its features with the nearest row is"
        return Measurement(
            {"forget": [own.value for own, _ in pairs], "retain": [rest.value for _, rest in pairs]},
            (by_rule("scrub", "feature-classifier alignment", found, what),),
        )

    def show(self, figures: AlignmentFigures) -> str:
        if "forget" not in figures or "retain" not in figures:
            return ""
        names = ["forgotten", *(f"retrained model {n + 1}" for n in range(len(figures["forget"]) - 1))]
        rows = [
            [name, f"{own:.3f}", f"{rest:.3f}"]
            for name, own, rest in zip(names, figures["forget"], figures["retain"], strict=True)
        ]
        head = ["model", "class, nearest row", "others, own row"]
        return "<h2>Alignment of features and classifier</h2><p>Mean cosines.</p>" + table(head, rows)


@torch.no_grad()
def _alignment(models: Models, loaded: Loaded, batch: int = 256) -> tuple[Sampled, Sampled]:
    """Of samples of the class, and of retained ones."""
    model = loaded.model

    def features(inputs: torch.Tensor) -> torch.Tensor:
        parts = []
        for chunk in inputs.split(batch):
            tokens = model.trunk(loaded.preprocess(chunk.to(models.device)))
            parts.append(model.read(tokens, model.bank.everyone(len(chunk)))[:, 0].double().cpu())
        return torch.cat(parts)

    own, rest = features(models.groups.forget_test.inputs), features(models.groups.retain_test.inputs)
    weight = model.readout.weights(model)[0].double().cpu()
    rows = F.normalize(weight - weight.mean(dim=0), dim=1)
    centre = rest.mean(dim=0)
    cosines, cosines_rest = (F.normalize(part - centre, dim=1) @ rows.T for part in (own, rest))
    labels = renumber(len(models.full.classes), models.positions)[models.groups.retain_test.labels]
    return mean_of(cosines.amax(dim=1)), mean_of(cosines_rest.gather(1, labels[:, None]).squeeze(1))
