"""The options of the exact readout."""

from dataclasses import dataclass
from typing import ClassVar

from pfm.options import Section, option

MEMORIES = ("features", "sums", "none")
LARGEST_WIDTH = 16_384


@dataclass(frozen=True, kw_only=True)
class ExactConfig:
    """What the exact readout is solved from, and what is kept to forget with."""

    section: ClassVar = Section.EXACT
    features: str = option(
        "backbone",
        "What is classified: the frozen backbone's outputs, or the raw input (pooled pixels or log-mel), which needs "
        "no backbone.",
        choices=("backbone", "raw"),
    )
    feature_tokens: str = option(
        "both", "Which outputs of the backbone: CLS, the mean of the patches, or both.", choices=("cls", "mean", "both")
    )
    width: int = option(
        2048,
        "Columns of the fixed random projection: more cost more and fit better.",
        minimum=16,
        maximum=LARGEST_WIDTH,
    )
    alpha: float = option(1e-6, "Penalty of the squared weights, times the trace of the summed products.", minimum=0.0)
    memory: str = option(
        "features",
        "What is kept to forget with: features (classes, groups and samples can go; personal data), sums (a matrix a "
        "class; classes can go), none (nothing will be forgotten exactly).",
        choices=MEMORIES,
    )
