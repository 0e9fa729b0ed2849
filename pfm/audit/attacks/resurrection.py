"""Resurrection: what an attacker with the weights brings back, beside models that never saw the class.

Judged is the area under the ROC curve of the class's score, class against rest, and on both sides: a class that is
harder to bring back than had it never been there is a fingerprint too. S@n, which hangs on where the new row happens to
cross the others, is shown and not judged.
"""

import functools
import statistics
from collections.abc import Sequence
from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import counted, picture
from pfm.audit.models import Models
from pfm.audit.resurrection import Attacker, Recovery, gap_interval
from pfm.audit.rule import Comparison
from pfm.audit.sampled import compare
from pfm.audit.subject import Loaded
from pfm.audit.verdict import by_rule
from pfm.evaluation.pictures import Curve, draw_curves
from pfm.seeds import make_generator


class Recovered(TypedDict):
    """Means over the attack seeds, in [0, 1].

    Keys:
        selective: S@n; its range is that of the seeds.
        forget, retain: accuracy on the class, and on the others.
        auroc: of the class's probability, class against rest.
    """

    selective: float
    selective_range: list[float]
    forget: float
    retain: float
    auroc: float
    num_attacks: int


class Resurrected(TypedDict):
    """Attacks with n samples and so many new tokens.

    Keys:
        retrained: of each oracle.
        control: the same attack on the forgotten model with samples of other classes.
        gap: S@n of the forgotten model less that of the retrained ones, their mean; its interval is whatever any of
            them allows.
        auroc_gap: the same of the area, which is what is judged.
    """

    n: int
    tokens: int
    forgotten: Recovered
    retrained: list[Recovered]
    control: Recovered
    gap: float
    gap_low: float
    gap_high: float
    auroc_gap: float


class Resurrection:
    """A new prompt is learned from a few samples; every number of samples but none, and of tokens, is judged."""

    name = "resurrection"
    about = "the weights and n samples of the class; learns a prompt of one token and a row"

    def measure(self, models: Models) -> Measurement[list[Resurrected]]:
        attacker = Attacker(models.data, models.positions, models.config, models.device)
        config, forgotten, oracles = models.config, models.loaded["forgotten"], models.loaded_oracles
        found = [trial(attacker, forgotten, oracles, size=size, tokens=tokens)
                 for tokens in config.tokens for size in attacker.sizes]  # fmt: skip
        judgements = [
            by_rule("scrub", f"resurrection from {in_words(entry)}", compared, "AUROC of the class brought back is")
            for entry, compared in found
            if entry["n"]
        ]
        return Measurement([entry for entry, _ in found], tuple(judgements))

    def show(self, figures: list[Resurrected]) -> str:
        panels = {
            f"{what}, {counted(tokens, 'new token')}": curves([e for e in figures if e["tokens"] == tokens], key)
            for tokens in sorted({entry["tokens"] for entry in figures})
            for what, key in (("AUROC", "auroc"), ("S@n", "selective"))
        }
        return (
            "<h2>Resurrection</h2>"
            "<p>An attacker with the weights learns a new prompt from n samples. AUROC is of the class's score, class "
            "against rest; S@n is the mean of the accuracy on the forgotten classes and on the retained ones. The "
            "band spans the retrained models. The control learns from samples of other classes under the label.</p>"
            + picture(
                "resurrection",
                draw_curves(panels, xlabel="samples the attacker has (n)", ylabel="AUROC or S@n", ticks=True),
            )
        )


def in_words(entry: Resurrected) -> str:
    """1 sample, 5 tokens."""
    return f"{counted(entry['n'], 'sample')}, {counted(entry['tokens'], 'token')}"


def resurrection_gaps(attacker: Attacker, forgotten: Loaded, oracles: Sequence[Loaded]) -> list[Resurrected]:
    """S@n and AUROC of the forgotten model, of the oracles and of the control, and the gaps, for each n and m."""
    return [
        trial(attacker, forgotten, oracles, size=size, tokens=tokens)[0]
        for tokens in attacker.config.tokens
        for size in attacker.sizes
    ]


def trial(
    attacker: Attacker, forgotten: Loaded, oracles: Sequence[Loaded], *, size: int, tokens: int, restarts: int = 1
) -> tuple[Resurrected, Comparison]:
    """One number of samples and of tokens: the figures, and the areas compared."""
    attack = functools.partial(attacker.attack, size=size, tokens=tokens, restarts=restarts)
    mine, theirs, control = attack(forgotten), [attack(o) for o in oracles], attack(forgotten, is_control=True)
    gaps = [gap_interval(mine, other, make_generator(attacker.config.seed, "gap", size)) for other in theirs]
    compared = compare(mine.area, [other.area for other in theirs], attacker.config.epsilon)
    found: Resurrected = {
        "n": attacker.num_samples(size),
        "tokens": tokens,
        "forgotten": _recovered(mine),
        "retrained": [_recovered(other) for other in theirs],
        "control": _recovered(control),
        "gap": statistics.fmean(gap for gap, _ in gaps),
        "gap_low": min(low for _, (low, _) in gaps),
        "gap_high": max(high for _, (_, high) in gaps),
        "auroc_gap": compared.difference,
    }
    return found, compared


def _recovered(recovery: Recovery) -> Recovered:
    low, high = float(recovery.selective.min()), float(recovery.selective.max())
    return {
        "selective": float(recovery.selective.mean()),
        "selective_range": [low, high],
        "forget": float(recovery.forget.double().mean()),
        "retain": float(recovery.retain.double().mean()),
        "auroc": float(recovery.auroc.mean()),
        "num_attacks": len(recovery.selective),
    }


def curves(entries: list[Resurrected], key: str) -> dict[str, Curve]:
    """One panel: a figure of the attacked models over n."""
    sizes = [entry["n"] for entry in entries]
    oracles = [[float(one[key]) for one in entry["retrained"]] for entry in entries]
    return {
        "forgotten": Curve(sizes, [float(entry["forgotten"][key]) for entry in entries]),
        "retrained": Curve(
            sizes,
            [statistics.fmean(one) for one in oracles],
            [min(one) for one in oracles],
            [max(one) for one in oracles],
        ),
        "control": Curve(sizes, [float(entry["control"][key]) for entry in entries], is_dashed=True),
    }
