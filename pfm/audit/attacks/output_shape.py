"""Shape of the output: how certain each model is about samples of the forgotten, and how far from the retrained ones.

Without its prompt, the model may be no more certain than models that never saw the class (*suspend*). To be like one of
them it may not be flatter either (*scrub*): an output that is too flat tells an observer that something was removed.
"""

import html
from collections.abc import Mapping
from typing import NotRequired, TypedDict

import torch

from pfm.audit import figures
from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import picture, table
from pfm.audit.models import Models
from pfm.audit.rule import Comparison, Side, Tolerance
from pfm.audit.sampled import Sampled, compare, mean_of
from pfm.audit.verdict import Judgement, by_rule
from pfm.evaluation.pictures import Curve, draw_curves

BINS = 20
SHOWN = ("full", "suspended", "forgotten", "retrained", "masked")


class ShapeRow(TypedDict):
    """One model, asked for test samples of the forgotten classes.

    Keys:
        entropy: mean of H(p) / ln C, 1 where uniform; its distribution over 20 bins is the histogram.
        js_to_retrained: mean Jensen-Shannon divergence to the answers of the first retrained model, in nats.
        unknown: share answered `unknown`, where the full model has such an output.
    """

    entropy: float
    entropy_interval: tuple[float, float]
    histogram: list[float]
    js_to_retrained: float
    unknown: NotRequired[float]
    unknown_interval: NotRequired[tuple[float, float]]


class OutputShape:
    """Entropy, divergence and share of `unknown`, for every model."""

    name = "shape"
    about = "the probabilities, for test samples of the class"

    def measure(self, models: Models) -> Measurement[dict[str, ShapeRow]]:
        full = models.loaded["full"].model
        rows: dict[str, ShapeRow] = {}
        for name, by_group in models.answers.items():
            log_p = by_group["forget_test"]
            entropy = figures.normalised_entropy(log_p)
            rows[name] = {
                "entropy": float(entropy.mean()),
                "entropy_interval": figures.mean_interval(entropy, models.generator),
                "histogram": torch.histc(entropy.clamp(0, 1), bins=BINS, min=0, max=1).tolist(),
                "js_to_retrained": float(
                    figures.js_divergence(log_p, models.answers["retrained"]["forget_test"]).mean()
                ),
            }
            if full.unknown_logit > -torch.inf:
                share = (log_p.argmax(dim=1) == log_p.shape[1] - 1).double()
                rows[name]["unknown"] = float(share.mean())
                rows[name]["unknown_interval"] = figures.share_interval(int(share.sum()), len(share))
        return Measurement(rows, judgements(models, can_say_unknown=full.unknown_logit > -torch.inf))

    def show(self, figures: dict[str, ShapeRow]) -> str:
        middles = [(i + 0.5) / BINS for i in range(BINS)]
        curves = {name: Curve(middles, figures[name]["histogram"]) for name in SHOWN if name in figures}
        cells = [
            [html.escape(name), f"{row['entropy']:.3f}", f"{row['js_to_retrained']:.3f}"]
            for name, row in figures.items()
        ]
        return (
            "<h2>Shape of the output on samples of the forgotten</h2>"
            + picture(
                "output shape",
                draw_curves({"normalised entropy": curves}, xlabel="H(p) / ln C", ylabel="samples"),
            )
            + "<p>1 is uniform. Each model is asked for test samples of the forgotten classes.</p>"
            + table(["model", "H/ln C", "JS to retrained"], cells)
        )


def judgements(models: Models, *, can_say_unknown: bool) -> tuple[Judgement, ...]:
    """Whether outputs say no more of the class without its prompt, and whether they are like the oracles'.

    Args:
        can_say_unknown: the model can answer `unknown`; being certain of that says nothing of the class.
    """

    def entropy(by_group: Mapping[str, torch.Tensor]) -> Sampled:
        return mean_of(figures.normalised_entropy(by_group["forget_test"]))

    def unknown(by_group: Mapping[str, torch.Tensor]) -> Sampled:
        log_p = by_group["forget_test"]
        return mean_of(log_p.argmax(dim=1) == log_p.shape[1] - 1)

    kinds = [("entropy", "H/ln C on its samples is", entropy, Tolerance.ENTROPY)]
    if can_say_unknown:
        kinds.insert(0, ("unknown", "the share of its samples answered `unknown` is", unknown, Tolerance.UNKNOWN))
    _, what, measure, tolerance = kinds[0]
    hidden = models.compare(measure, tolerance, name="suspended", side=Side.BELOW)
    return (
        by_rule("suspend", "output shape", hidden, f"without its prompt {what}"),
        *(by_rule("scrub", f"output shape: {name}", models.compare(measure, tolerance), what)
          for name, what, measure, tolerance in kinds),
        by_rule("scrub", "output shape: divergence", divergence(models), "divergence to the retrained models is"),
    )  # fmt: skip


def divergence(models: Models) -> Comparison:
    """How far the outputs are from the oracles', beside how far each of those is from the other oracles'."""
    oracles = [by_group["forget_test"] for by_group in models.answers_of_oracles]

    def to_others(log_p: torch.Tensor, others: list[torch.Tensor]) -> Sampled:
        return mean_of(torch.stack([figures.js_divergence(log_p, other) for other in others]).mean(dim=0))

    own = to_others(models.answers["forgotten"]["forget_test"], oracles)
    among = [to_others(o, [p for p in oracles if p is not o]) for o in oracles] if len(oracles) > 1 else [own]
    return compare(own, among, Tolerance.DIVERGENCE, side=Side.ABOVE)
