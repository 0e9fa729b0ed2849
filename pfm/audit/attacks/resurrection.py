"""Resurrection: what an attacker with the weights brings back, beside a model that never saw the class."""

import statistics
from collections.abc import Callable, Sequence
from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.config import AuditConfig
from pfm.audit.markup import counted, picture
from pfm.audit.models import Models
from pfm.audit.resurrection import Attacker, Recovery, gap_interval
from pfm.audit.subject import Loaded
from pfm.audit.verdict import Judgement, at_most
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
    """

    n: int
    tokens: int
    forgotten: Recovered
    retrained: list[Recovered]
    control: Recovered
    gap: float
    gap_low: float
    gap_high: float


class Resurrection:
    """A new prompt is learned from a few samples; every number of samples and of tokens is judged."""

    name = "resurrection"

    def measure(self, models: Models) -> Measurement[list[Resurrected]]:
        attacker = Attacker(models.data, models.positions, models.config, models.device)
        found = resurrection_gaps(attacker, models.loaded["forgotten"], models.loaded_oracles)
        return Measurement(found, tuple(_judge(entry, models.config) for entry in found))

    def show(self, figures: list[Resurrected]) -> str:
        panels = {
            counted(tokens, "new token"): _curves([entry for entry in figures if entry["tokens"] == tokens])
            for tokens in sorted({entry["tokens"] for entry in figures})
        }
        return (
            "<h2>Resurrection</h2>"
            "<p>An attacker with the weights learns a new prompt from n samples. S@n is the mean of the accuracy on "
            "the forgotten classes and on the retained ones; bands span the attack seeds. The control learns from "
            "samples of other classes under the forgotten label.</p>"
            + picture(
                "resurrection",
                draw_curves(panels, xlabel="samples the attacker has (n)", ylabel="S@n", ticks=True),
            )
        )


def resurrection_gaps(attacker: Attacker, forgotten: Loaded, oracles: Sequence[Loaded]) -> list[Resurrected]:
    """S@n of the forgotten model, of the oracles and of the control, and the gap, for each n and m."""
    found: list[Resurrected] = []
    for tokens in attacker.config.tokens:
        for size in attacker.config.sizes:
            mine = attacker.attack(forgotten, size=size, tokens=tokens)
            theirs = [attacker.attack(oracle, size=size, tokens=tokens) for oracle in oracles]
            control = attacker.attack(forgotten, size=size, tokens=tokens, is_control=True)
            gaps = [gap_interval(mine, other, make_generator(attacker.config.seed, "gap", size)) for other in theirs]
            found.append(
                {
                    "n": attacker.num_samples(size),
                    "tokens": tokens,
                    "forgotten": _recovered(mine),
                    "retrained": [_recovered(other) for other in theirs],
                    "control": _recovered(control),
                    "gap": statistics.fmean(gap for gap, _ in gaps),
                    "gap_low": min(low for _, (low, _) in gaps),
                    "gap_high": max(high for _, (_, high) in gaps),
                }
            )
    return found


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


def _judge(entry: Resurrected, config: AuditConfig) -> Judgement:
    return Judgement(
        level="scrub",
        measure=f"resurrection from {counted(entry['n'], 'sample')}, {counted(entry['tokens'], 'token')}",
        value=entry["gap"],
        low=entry["gap_low"],
        high=entry["gap_high"],
        limit=config.epsilon,
        verdict=at_most(entry["gap_low"], entry["gap_high"], config.epsilon),
        reason=f"S@n is {entry['forgotten']['selective']:.3f}, of the retrained model "
        f"{entry['retrained'][0]['selective']:.3f}: a gap of {entry['gap']:+.3f} ({entry['gap_low']:+.3f} to "
        f"{entry['gap_high']:+.3f}), at most {config.epsilon}",
    )


def _curves(entries: list[Resurrected]) -> dict[str, Curve]:
    """One panel: S@n of the attacked models over n, and the gap."""
    sizes = [entry["n"] for entry in entries]
    picks: dict[str, Callable[[Resurrected], Recovered]] = {
        "forgotten": lambda entry: entry["forgotten"],
        "retrained": lambda entry: entry["retrained"][0],
        "control": lambda entry: entry["control"],
    }
    curves = {}
    for name, pick in picks.items():
        found = [pick(entry) for entry in entries]
        curves[name] = Curve(
            sizes,
            [one["selective"] for one in found],
            [one["selective_range"][0] for one in found],
            [one["selective_range"][1] for one in found],
            is_dashed=name == "control",
        )
    gaps = [e["gap"] for e in entries], [e["gap_low"] for e in entries], [e["gap_high"] for e in entries]
    return {**curves, "gap": Curve(sizes, *gaps)}
