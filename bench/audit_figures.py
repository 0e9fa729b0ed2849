"""The tables of `audit_table.py`: means over the cases, and gaps to the retrained models with pooled intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pfm.audit.figures import REPLICATES, interval
from pfm.audit.rule import CONFIDENCE
from pfm.seeds import make_generator

Rows = Sequence[Mapping[str, Any]]
HEADS = (
    "", "models", "all", "retained, of retrained", "class, prompt out", "H/ln C, of retrained", "JS, among retrained",
    "membership, of retrained",
)  # fmt: skip
GAPS = {
    "auroc_1": "gap, n = 1",
    "auroc_10": "n = 10",
    "relearned_adapters": "relearned, adapters",
    "relearned_all": "all weights",
}


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Forgotten less retrained, in points of a hundred: a mean over classes, and its 90 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f})".replace("-", "−")


def gap_of(cases: Sequence[Mapping[str, Any]], key: str) -> Gap:
    """Pooled over cases of one variant, a class each.

    Models of three seeds stand beside three retrained ones; both are drawn anew within each class, and classes as well.
    Where each model gives what the retrained one of its seed does, as an exact readout, nothing is drawn.
    """
    if all([row[key] for row in case["forgotten"]] == [row[key] for row in case["retrained"]] for case in cases):
        return Gap(mean=0.0, low=0.0, high=0.0)
    generator = make_generator("pooled", key)
    per_class = torch.stack([_drawn(case, key, generator) for case in cases])  # (K, R)
    classes = torch.randint(len(cases), (len(cases), REPLICATES), generator=generator)
    low, high = interval(per_class.gather(0, classes).mean(dim=0), CONFIDENCE)
    mean = statistics.fmean(mean_of(case["forgotten"], key) - mean_of(case["retrained"], key) for case in cases)
    return Gap(mean=100 * mean, low=100 * low, high=100 * high)


def _drawn(case: Mapping[str, Any], key: str, generator: torch.Generator) -> torch.Tensor:
    """(R,) gaps of one class."""
    sides = []
    for side in ("forgotten", "retrained"):
        values = torch.tensor([row[key] for row in case[side]], dtype=torch.float64)
        drawn = torch.randint(len(values), (REPLICATES, len(values)), generator=generator)
        sides.append(values[drawn].mean(dim=1))
    return sides[0] - sides[1]


def mean_of(rows: Rows, key: str) -> float:
    known = [row[key] for row in rows if row[key] is not None]
    return statistics.fmean(known) if known else math.nan


def by_variant(runs: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The cases of each variant, a class each."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, case in runs.items():
        found.setdefault(name.partition(";")[0], []).append(case)
    return found


def tables(runs: Mapping[str, Any]) -> str:
    """One row a variant, as Markdown; then the gaps of each class."""
    found = by_variant(runs)
    shown = [key for key in GAPS if any(_has(cases, key) for cases in found.values())]
    heads = [*HEADS, *(GAPS[key] for key in shown)]
    lines = [f"| {' | '.join(heads)} |".replace("|  ", "| "), "|---|" + "---:|" * (len(heads) - 1)]
    for variant, cases in found.items():
        gaps = [str(gap_of(cases, key)) if _has(cases, key) else "" for key in shown]
        lines.append(f"| {' | '.join([*_cells(variant, cases), *gaps])} |".replace("|  ", "| "))
    lines.append("")
    for name, case in runs.items():
        gaps = [100 * (mean_of(case["forgotten"], key) - mean_of(case["retrained"], key))
                for key in shown if _has([case], key)]  # fmt: skip
        lines.append(f"{name}: {' '.join(f'{gap:+.1f}' for gap in gaps)}")
    return "\n".join(lines)


def _has(cases: Sequence[Mapping[str, Any]], key: str) -> bool:
    return all(key in row for case in cases for row in case["forgotten"])


def _cells(variant: str, cases: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(side: str, key: str) -> float:
        return statistics.fmean(mean_of(case[side], key) for case in cases)

    def percent(side: str, key: str) -> str:
        return f"{100 * mean(side, key):.1f}"

    def pair(key: str) -> str:
        return f"{mean('forgotten', key):.2f}, {mean('retrained', key):.2f}"

    readout, comma, target = variant.partition(", ")
    return [
        f"`{readout}`{comma}{target}",
        str(sum(len(case["forgotten"]) for case in cases)),
        percent("forgotten", "full"),
        f"{percent('forgotten', 'retain')}, {percent('retrained', 'retain')}",
        percent("forgotten", "prompt_out"),
        pair("entropy"),
        pair("js"),
        pair("membership"),
    ]
