"""A linear probe for the class on each layer, and how alike the layers of the forgotten and the retrained model are."""

from typing import TypedDict

import torch

from pfm.audit import figures, probe
from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import picture
from pfm.audit.models import Models
from pfm.audit.sampled import balanced_of, compare
from pfm.audit.verdict import by_rule
from pfm.evaluation.pictures import draw_bars

Hits = tuple[torch.Tensor, torch.Tensor]  # whether each test sample is answered rightly, of the class and of the others


class ProbeFigures(TypedDict):
    """By layer, from the embedding up.

    Keys:
        accuracy: balanced, of class against rest, by model.
        gap: of the last layer's, forgotten less the retrained models' mean.
        cka: linear, between the forgotten model and the retrained one.
    """

    accuracy: dict[str, list[float]]
    gap: float
    cka: list[float]


class Probe:
    """What the layers hold of the class."""

    name = "probe"
    about = "the weights and all training samples"

    def measure(self, models: Models) -> Measurement[ProbeFigures]:
        data = models.data
        is_gone, is_gone_test = models.is_gone
        hits: dict[str, list[Hits]] = {}
        features: dict[str, list[torch.Tensor]] = {}
        for name, loaded in models.loaded.items():
            train = probe.layer_features(loaded.model, loaded.preprocess(data.train.inputs))
            features[name] = probe.layer_features(loaded.model, loaded.preprocess(data.test.inputs))
            hits[name] = [probe.probe(a, is_gone, b, is_gone_test) for a, b in zip(train, features[name], strict=True)]
        oracles = [
            probe.probe(features_of.train, is_gone, features_of.test, is_gone_test)
            for features_of in models.last_layers[1]
        ]
        found_gap = compare(
            balanced_of(*hits["forgotten"][-1]), [balanced_of(*pair) for pair in oracles], models.config.epsilon
        )
        alike = zip(features["forgotten"], features["retrained"], strict=True)
        found: ProbeFigures = {
            "accuracy": {name: [_balanced(pair) for pair in pairs] for name, pairs in hits.items()},
            "gap": found_gap.difference,
            "cka": [figures.linear_cka(a, b) for a, b in alike],
        }
        what = "balanced accuracy of a linear probe is"
        return Measurement(found, (by_rule("scrub", "linear probe, last layer", found_gap, what),))

    def show(self, figures: ProbeFigures) -> str:
        layers = {name: {f"layer {i}": v for i, v in enumerate(a)} for name, a in figures["accuracy"].items()}
        bars = draw_bars(layers, ylabel="balanced accuracy, class against rest")
        return "<h2>Linear probe by layer</h2>" + picture("probe", bars)


def _balanced(pair: Hits) -> float:
    return 0.5 * float(pair[0].double().mean() + pair[1].double().mean())
