"""A linear probe for the class on each layer, and how alike the layers of the forgotten and the retrained model are."""

from typing import TypedDict

import torch

from pfm.audit import figures, probe
from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import picture
from pfm.audit.models import Models
from pfm.audit.verdict import Judgement, at_most
from pfm.evaluation.pictures import draw_bars
from pfm.seeds import make_generator

Hits = tuple[torch.Tensor, torch.Tensor]  # whether each test sample is answered rightly, of the class and of the others


class ProbeFigures(TypedDict):
    """By layer, from the embedding up.

    Keys:
        accuracy: balanced, of class against rest, by model.
        gap: of the last layer's, forgotten less retrained, with its interval.
        cka: linear, between the forgotten model and the retrained one.
    """

    accuracy: dict[str, list[float]]
    gap: float
    gap_low: float
    gap_high: float
    cka: list[float]


class Probe:
    """What the layers hold of the class."""

    name = "probe"

    def measure(self, models: Models) -> Measurement[ProbeFigures]:
        data, generator = models.data, make_generator(models.config.seed, "probe")
        labels = models.groups.forget_test.labels.unique()
        is_gone, is_gone_test = torch.isin(data.train.labels, labels), torch.isin(data.test.labels, labels)
        hits: dict[str, list[Hits]] = {}
        features: dict[str, list[torch.Tensor]] = {}
        for name, loaded in models.loaded.items():
            train = probe.layer_features(loaded.model, loaded.preprocess(data.train.inputs))
            features[name] = probe.layer_features(loaded.model, loaded.preprocess(data.test.inputs))
            hits[name] = [probe.probe(a, is_gone, b, is_gone_test) for a, b in zip(train, features[name], strict=True)]
        mine, theirs = hits["forgotten"][-1], hits["retrained"][-1]
        gap = _balanced(mine) - _balanced(theirs)
        low, high = _gap_interval(mine, theirs, generator)
        alike = zip(features["forgotten"], features["retrained"], strict=True)
        found: ProbeFigures = {
            "accuracy": {name: [_balanced(pair) for pair in pairs] for name, pairs in hits.items()},
            "gap": gap,
            "gap_low": low,
            "gap_high": high,
            "cka": [figures.linear_cka(a, b) for a, b in alike],
        }
        judgement = Judgement(
            level="scrub",
            measure="linear probe, last layer",
            value=gap,
            low=low,
            high=high,
            limit=models.config.epsilon,
            verdict=at_most(low, high, models.config.epsilon),
            reason=f"balanced accuracy differs from the retrained model's by {gap:+.3f} ({low:+.3f} to {high:+.3f})",
        )
        return Measurement(found, (judgement,))

    def show(self, figures: ProbeFigures) -> str:
        layers = {name: {f"layer {i}": v for i, v in enumerate(a)} for name, a in figures["accuracy"].items()}
        bars = draw_bars(layers, ylabel="balanced accuracy, class against rest")
        return "<h2>Linear probe by layer</h2>" + picture("probe", bars)


def _balanced(pair: Hits) -> float:
    return 0.5 * float(pair[0].double().mean() + pair[1].double().mean())


def _gap_interval(mine: Hits, theirs: Hits, generator: torch.Generator) -> tuple[float, float]:
    """Of a difference in balanced accuracy, the same test samples drawn for both."""
    replicates = torch.zeros(figures.REPLICATES, dtype=torch.float64)
    for own, other in zip(mine, theirs, strict=True):
        drawn = figures.draw_counts(len(own), figures.REPLICATES, generator)
        replicates += 0.5 * drawn @ (own.double() - other.double()) / len(own)
    return figures.interval(replicates)
