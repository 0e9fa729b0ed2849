"""Shape of the output: how certain each model is about samples of the forgotten, and how far from the retrained one."""

import html
from typing import NotRequired, TypedDict

import torch

from pfm.audit import figures
from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import picture, table
from pfm.audit.models import Models
from pfm.audit.verdict import Judgement, at_least
from pfm.evaluation.pictures import Curve, draw_curves

UNIFORM = 0.80  # how flat outputs on samples of the hidden class are to be, as a share of the flattest
BINS = 20
SHOWN = ("full", "suspended", "forgotten", "retrained", "masked")


class ShapeRow(TypedDict):
    """One model, asked for test samples of the forgotten classes.

    Keys:
        entropy: mean of H(p) / ln C, 1 where uniform; its distribution over 20 bins is the histogram.
        js_to_retrained: mean Jensen-Shannon divergence to the retrained model's answers, in nats.
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
        imitates = full.target.imitates_retrained or full.readout.erasure_is_exact
        return Measurement(rows, (judge_shape(rows, imitates_retrained=imitates),))

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


def judge_shape(rows: dict[str, ShapeRow], *, imitates_retrained: bool) -> Judgement:
    """Whether outputs say little of the class without its prompt.

    Args:
        imitates_retrained: training did not make them as flat as can be, but like those of a model that never saw
            the class; that one is the measure then.
    """
    hidden = rows["suspended"]
    if "unknown" in hidden and "unknown_interval" in hidden:
        value, (low, high) = hidden["unknown"], hidden["unknown_interval"]
        what = "are answered `unknown`"
    else:
        value, (low, high) = hidden["entropy"], hidden["entropy_interval"]
        what = "is the mean entropy over ln C"
    limit, of_what = UNIFORM, ""
    if imitates_retrained:
        certain = rows["retrained"]["entropy"]
        limit, of_what = UNIFORM * certain, f", {UNIFORM:.0%} of the retrained model's {certain:.3f}"
    return Judgement(
        level="suspend",
        measure="output shape",
        value=value,
        low=low,
        high=high,
        limit=limit,
        verdict=at_least(low, high, limit),
        reason=f"{value:.3f} {what} on its samples without its prompt ({low:.3f} to {high:.3f}); at least "
        f"{limit:.3g}{of_what}",
    )
