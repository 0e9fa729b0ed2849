"""What an evaluation found, as values."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pfm.evaluation.served import ServedAnswers
from pfm.evaluation.subsets import SubsetAccuracies


@dataclass(frozen=True, kw_only=True)
class UnknownShares:
    """Share of samples answered `unknown`, in [0, 1]: with their class there, and with it removed (k = 1)."""

    class_present: float
    class_removed: float


@dataclass(frozen=True, kw_only=True)
class SetAccuracy:
    """Accuracy in [0, 1] under one active set: on samples of the classes left out, and on the others."""

    forget: float
    retain: float


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Everything measured on one model.

    Attributes:
        modes: accuracy by inference mode, in [0, 1].
        subsets: by k.
        unknown: None for a model that never answers `unknown`.
        num_samples: of the split; `num_erased` of them are of erased classes and count nowhere.
        largest_class: share of the samples that are of the class with most of them.
        served: every sample's answers, where they were asked for; not part of the files.
    """

    modes: dict[str, float]
    subsets: list[SubsetAccuracies] = field(default_factory=list)
    unknown: UnknownShares | None = None
    num_samples: int = 0
    num_erased: int = 0
    largest_class: float = 0.0
    served: ServedAnswers | None = None

    def inference_accuracies(self) -> dict[str, dict[str, float]]:
        """Mean and standard deviation by k, as the paper's tool writes them."""
        return {str(entry.k): entry.summary() for entry in self.subsets}

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "num_samples": self.num_samples,
            "num_erased": self.num_erased,
            "largest_class": self.largest_class,
            "modes": self.modes,
            "unknown": None if self.unknown is None else dataclasses.asdict(self.unknown),
            "subsets": [{**dataclasses.asdict(entry), **entry.summary()} for entry in self.subsets],
        }
