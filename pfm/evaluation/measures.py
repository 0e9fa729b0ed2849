"""The measures that the field reports, of answers with all classes there, through scikit-learn.

AUC and accuracy are those of MedMNIST's own evaluator (Yang et al., 2023), which asks the probabilities of the classes
alone: `unknown` is not an answer to it. All else is of what the model answers; `unknown` is never right.

Letters: N samples, C classes.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfm.evaluation.intervals import Interval, Resampling, resampled_intervals
from pfm.evaluation.served import ServedAnswers
from pfm.storage import Json

BINS = 15  # of confidence, as usual for the calibration error (Guo et al., 2017)


@dataclass(frozen=True, kw_only=True)
class ClassMeasures:
    """One class against the others; None where it is not defined.

    Attributes:
        support: test samples.
        precision, recall, auc: in [0, 1], each with its 95 % interval over resampled samples or groups.
    """

    name: str
    support: int
    precision: float | None
    recall: float | None
    auc: float | None
    precision_interval: Interval | None = None
    recall_interval: Interval | None = None
    auc_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How often the most probable class is right, by its probability.

    Attributes:
        ece: expected calibration error, the mean distance between the two, weighted by samples.
        confidence, accuracy, count: of each bin that has samples.
    """

    ece: float
    confidence: list[float]
    accuracy: list[float]
    count: list[int]


@dataclass(frozen=True, kw_only=True)
class FieldMeasures:
    """The measures of a model with all classes there; shares in [0, 1], None where one is not defined.

    Attributes:
        accuracy, auc: as MedMNIST's evaluator has them.
        balanced_accuracy, macro_f1: means over the classes with test samples.
        classes: in the order of the bank.
        confusion: (C + 1, C + 1) counts as lists, true class by answer; the last of each is `unknown`.
        left_out: names of the classes without test samples, which are in no mean.
        resampling: how the intervals came about; None where there are none.
    """

    num_samples: int
    accuracy: float
    auc: float | None
    balanced_accuracy: float
    macro_f1: float
    classes: list[ClassMeasures]
    confusion: list[list[int]]
    calibration: Calibration
    left_out: list[str]
    resampling: Resampling | None = None

    def to_dict(self) -> Json:
        """For JSON."""
        return dataclasses.asdict(self)


def measure_field(
    served: ServedAnswers,
    names: Sequence[str],
    *,
    groups: Sequence[str] | None = None,
    num_resamples: int = 0,
    seed: int = 0,
) -> FieldMeasures:
    """All measures of a split's answers.

    Args:
        names: of the classes, in the order of the bank.
        groups: of each sample, such as its patient; intervals then resample groups whole.
        num_resamples: that the intervals are made of; 0 for no intervals.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    is_there = (served.labels >= 0).numpy()
    labels = served.labels.numpy()[is_there]
    answers = served.answers.numpy()[is_there]
    probabilities = served.probabilities.numpy()[is_there]  # (N, C)
    own_groups = None if groups is None else [group for group, there in zip(groups, is_there, strict=True) if there]
    positions = list(range(len(names)))
    nan: Any = np.nan  # which the library takes, and its types do not
    found: Any = precision_recall_fscore_support(labels, answers, labels=positions, zero_division=nan)
    precision, recall, f1, support = found
    has_samples = support > 0
    aucs = [class_auc(labels, probabilities[:, i], i) for i in positions]
    intervals, resampling = resampled_intervals(
        labels, answers, probabilities, groups=own_groups, num_resamples=num_resamples, seed=seed
    )
    return FieldMeasures(
        num_samples=len(labels),
        accuracy=medmnist_accuracy(labels, probabilities),
        auc=medmnist_auc(labels, probabilities),
        balanced_accuracy=float(recall[has_samples].mean()),
        macro_f1=float(np.nan_to_num(f1[has_samples]).mean()),  # of what is never answered nor right: 0
        classes=[
            ClassMeasures(
                name=name, support=int(support[i]), precision=_known(precision[i]), recall=_known(recall[i]),
                auc=aucs[i], **intervals[i],
            )
            for i, name in enumerate(names)
        ],
        confusion=confusion_matrix(labels, answers, labels=[*positions, -1]).tolist(),
        calibration=measure_calibration(labels, probabilities),
        left_out=[name for i, name in enumerate(names) if not has_samples[i]],
        resampling=resampling,
    )  # fmt: skip


def class_auc(labels: np.ndarray, scores: np.ndarray, position: int) -> float | None:
    """Area under the ROC curve of one class against the others; None where only one side has samples.

    Args:
        labels, scores: (N,).
    """
    from sklearn.metrics import roc_auc_score

    is_own = labels == position
    return float(roc_auc_score(is_own, scores)) if 0 < is_own.sum() < len(labels) else None


def medmnist_auc(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """AUC as MedMNIST's evaluator has it: of class 1 where there are two, else the mean over the classes.

    A class without samples, where that evaluator has no answer, is left out of the mean.

    Args:
        labels: (N,).
        probabilities: (N, C).
    """
    num_classes = probabilities.shape[1]
    if num_classes == 2:
        return class_auc(labels, probabilities[:, 1], 1)
    found = [auc for i in range(num_classes) if (auc := class_auc(labels, probabilities[:, i], i)) is not None]
    return sum(found) / len(found) if found else None


def medmnist_accuracy(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Accuracy as MedMNIST's evaluator has it: class 1 above one half where there are two, else the most probable."""
    from sklearn.metrics import accuracy_score

    if probabilities.shape[1] == 2:
        return float(accuracy_score(labels, probabilities[:, 1] > 0.5))
    return float(accuracy_score(labels, probabilities.argmax(axis=1)))


def measure_calibration(labels: np.ndarray, probabilities: np.ndarray) -> Calibration:
    """Of the most probable class, in bins of equal width.

    Args:
        labels: (N,).
        probabilities: (N, C).
    """
    from sklearn.calibration import calibration_curve

    confidence = probabilities.max(axis=1).clip(0, 1)
    is_right = probabilities.argmax(axis=1) == labels
    accuracy, mean_confidence = calibration_curve(is_right, confidence, n_bins=BINS, pos_label=True)
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    counts = counts[counts > 0]
    ece = float((counts * np.abs(accuracy - mean_confidence)).sum() / len(labels))
    return Calibration(
        ece=ece, confidence=mean_confidence.tolist(), accuracy=accuracy.tolist(), count=counts.tolist()
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
