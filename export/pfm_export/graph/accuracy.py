"""What a precision costs on test samples: accuracy and forgetting, beside the float32 model's.

Quantisation must not bring a forgotten class back, and parity on random inputs cannot show that.

Letters: N samples, B batch, C classes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch leaves the types of some of its own functions open

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import preprocess_from_dict
from pfm.data.loading import load_data
from pfm.data.reading import Intake
from pfm.errors import DataError
from pfm.evaluation.samples import label_positions
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views, averaged
from pfm.seeds import make_generator
from pfm.storage import Json
from pfm_export.graph.front_ends import FRONT_ENDS
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.runtime import Tensor

BATCH_SIZE = 64
# in percentage points; beyond them the bundle carries a warning
MOST_ACCURACY_LOST, MOST_FORGET_GAINED = 0.5, 1.0


@dataclass(frozen=True)
class TestSamples:
    """Inputs as stored, such as images (N, 1 or 3, H, W) uint8, and the place of each one's class in the bank (N,)."""

    __test__ = False  # pytest, this is not a test

    inputs: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """Shares in [0, 1] of test samples that are answered right.

    Attributes:
        accuracy: all prompts there.
        forget_k1, retain_k1: samples of a class whose prompt is left out, and those of the others; mean over the
            classes. `retain_k1` is nan where all samples are of one class.
    """

    accuracy: float
    forget_k1: float
    retain_k1: float


@dataclass(frozen=True, kw_only=True)
class AccuracyReport:
    """What a bundle's precision costs on test samples.

    Attributes:
        num_samples: N.
        bundle, fp32: of the bundle, and of the float32 model in torch.
        worst_difference: of a logit, all prompts there.
    """

    num_samples: int
    bundle: Accuracies
    fp32: Accuracies
    worst_difference: float

    @property
    def warnings(self) -> list[str]:
        """Sentences on what the precision spoils; none where it spoils nothing."""
        return precision_warnings(self.bundle, self.fp32)

    def to_dict(self) -> Json:
        """As it stands in a manifest."""
        return {**asdict(self), "warnings": self.warnings}


def find_samples(
    checkpoint: Checkpoint, *, dataset: str | None = None, data_dir: str | None = None, max_samples: int
) -> TestSamples:
    """Test samples of the data set that a checkpoint was trained on, or of `dataset`.

    Args:
        max_samples: if there are more, so many are drawn, the same ones each time.

    Raises:
        DataError: the data set is not known, not there, or not one for these classes.
    """
    stored = checkpoint.run.get("data", {})
    known: dict[str, Any] = {
        field.name: stored[field.name] for field in dataclasses.fields(DataConfig) if field.name in stored
    }
    if dataset is not None:
        how = {name: known[name] for name in ("label_from", "label") if name in known}
        known = {"dataset": dataset, "data_type": checkpoint.preprocess.storage.kind, **how}
    elif not known:
        raise DataError("the checkpoint does not say what it was trained on; give --dataset")
    elif checkpoint.data_commit:  # not what the branch is by now
        known["data_revision"] = checkpoint.data_commit
    if data_dir is not None:
        known["data_dir"] = data_dir
    intake = Intake(splits=frozenset({"test"}))
    data = load_data(DataConfig(**known), checkpoint.preprocess.storage, intake=intake)
    labels = label_positions(checkpoint.classes, data.classes, checkpoint.erased)[data.test.labels]
    there = torch.nonzero(labels >= 0).flatten()
    if len(there) == 0:
        raise DataError(f"{data.name} has no test sample of the checkpoint's classes")
    chosen = there[torch.randperm(len(there), generator=make_generator("accuracy", len(there)))][:max_samples]
    return TestSamples(data.test.inputs[chosen], labels[chosen])


@torch.inference_mode()
def measure_accuracy(model: PromptedClassifier, folder: Path, samples: TestSamples) -> AccuracyReport:
    """Accuracy, and forget and retain accuracy for k = 1 (mean over the classes), of a bundle and of its model.

    All classifier rows are given and only prompts are left out, as `pfm eval` does it.
    """
    bundle = Bundle.open(folder)
    runner, kind = GraphRunner(bundle), bundle.input
    preprocess = preprocess_from_dict(bundle.manifest["preprocess"])
    front_end = FRONT_ENDS.get(kind.name)(kind, preprocess)
    everything = tuple(range(model.num_classes))
    actives = [everything, *(tuple(p for p in everything if p != gone) for gone in everything)]
    of_bundle: list[torch.Tensor] = []
    of_model: list[torch.Tensor] = []
    worst = 0.0
    for stored, labels in zip(samples.inputs.split(BATCH_SIZE), samples.labels.split(BATCH_SIZE), strict=True):
        views = Views.of(model, preprocess, stored)
        taken = [(runner.trunk(inputs), weight) for inputs, weight in front_end.windows(stored)]
        for active in actives:
            present = shared_set(list(active), len(stored), torch.device("cpu"))
            expected = views.logits(present)
            found = model.readout.by_class(
                _scores(runner, bundle, taken, [active] * len(stored)), present, model.num_classes
            )
            if active == everything:
                worst = float(np.maximum(worst, (found - expected).abs().max().item()))
            of_model.append(model.predict(expected) == labels)
            of_bundle.append(model.predict(found) == labels)
    return AccuracyReport(
        num_samples=len(samples.labels),
        bundle=_accuracies(_joined(of_bundle, len(actives)), samples.labels),
        fp32=_accuracies(_joined(of_model, len(actives)), samples.labels),
        worst_difference=worst,
    )


def _scores(
    runner: GraphRunner,
    bundle: Bundle,
    taken: Sequence[tuple[Tensor, torch.Tensor | None]],
    actives: Sequence[tuple[int, ...]],
) -> torch.Tensor:
    """Scores (B, C), or (B, K) of the active sets, averaged over the windows."""
    rows = range(len(bundle.classes))
    return averaged(taken, lambda tokens: torch.from_numpy(runner.head(bundle, tokens, actives, rows)))


def _joined(right: list[torch.Tensor], num_sets: int) -> torch.Tensor:
    """Right answers (B,) of one batch and set after another -> (sets, N)."""
    return torch.stack([torch.cat(right[number::num_sets]) for number in range(num_sets)])


def precision_warnings(found: Accuracies, fp32: Accuracies) -> list[str]:
    """Sentences on what a precision spoils; none where it spoils nothing."""
    warnings: list[str] = []
    lost = 100 * (fp32.accuracy - found.accuracy)
    if lost > MOST_ACCURACY_LOST:
        warnings.append(f"accuracy is {lost:.1f} points below float32's; more than {MOST_ACCURACY_LOST} is too much")
    gained = 100 * (found.forget_k1 - fp32.forget_k1)
    if gained > MOST_FORGET_GAINED:
        warnings.append(
            f"forgotten classes are recognised {gained:.1f} points more often than in float32; "
            f"more than {MOST_FORGET_GAINED:.0f} is too much"
        )
    return warnings


def _accuracies(right: torch.Tensor, labels: torch.Tensor) -> Accuracies:
    """From right answers (1 + C, N), the first row with all prompts, row 1 + c without that of class c."""
    present = labels.unique().tolist()
    forget = [right[1 + c][labels == c].double().mean() for c in present]
    retain = [right[1 + c][labels != c].double().mean() for c in present if bool((labels != c).any())]
    return Accuracies(
        accuracy=float(right[0].double().mean()),
        forget_k1=float(torch.stack(forget).mean()),
        retain_k1=float(torch.stack(retain).mean()) if retain else float("nan"),
    )
