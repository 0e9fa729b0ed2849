"""What a precision costs on test samples: accuracy and forgetting, beside the float32 model's.

Quantisation must not bring a forgotten class back, and parity on random inputs cannot show that.

Letters: N samples, B batch, C classes.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import Preprocess, preprocess_from_dict
from pfm.data.loading import load_data
from pfm.errors import DataError
from pfm.evaluation.samples import label_positions
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views, averaged
from pfm.seeds import make_generator
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.runtime import Tensor

BATCH_SIZE = 64
# in percentage points; beyond them the bundle carries a warning
MOST_ACCURACY_LOST, MOST_FORGET_GAINED = 0.5, 1.0


@dataclass(frozen=True)
class TestSamples:
    """Inputs as stored, such as images (N, 1 or 3, H, W) uint8, and the place of each one's class in the bank (N,)."""

    __test__ = False  # pytest, this is no test

    inputs: torch.Tensor
    labels: torch.Tensor


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
        known = {"dataset": dataset, "data_type": checkpoint.preprocess.kind, **how}
    elif not known:
        raise DataError("the checkpoint does not say what it was trained on; give --dataset")
    if data_dir is not None:
        known["data_dir"] = data_dir
    data = load_data(DataConfig(**known), checkpoint.preprocess.storage)
    labels = label_positions(checkpoint.classes, data.classes, checkpoint.erased)[data.test.labels]
    there = torch.nonzero(labels >= 0).flatten()
    if len(there) == 0:
        raise DataError(f"{data.name} has no test sample of the checkpoint's classes")
    chosen = there[torch.randperm(len(there), generator=make_generator("accuracy", len(there)))][:max_samples]
    return TestSamples(data.test.inputs[chosen], labels[chosen])


@torch.inference_mode()
def measure_accuracy(model: PromptedClassifier, folder: Path, samples: TestSamples) -> dict[str, Any]:
    """Accuracy, and forget and retain accuracy for k = 1 (mean over the classes), of a bundle and of its model.

    All classifier rows are given and only prompts are left out, as `pfm eval` does it.

    Returns:
        For the manifest: `bundle` and `fp32` with the three accuracies in [0, 1], the worst
        difference of a logit with all prompts there, and `warnings` for people.
    """
    bundle = Bundle.open(folder)
    runner = GraphRunner(bundle)
    preprocess = preprocess_from_dict(bundle.preprocess)
    everything = tuple(range(model.num_classes))
    actives = [everything, *(tuple(p for p in everything if p != gone) for gone in everything)]
    right: dict[str, list[torch.Tensor]] = {"bundle": [], "fp32": []}
    worst = 0.0
    for stored, labels in zip(samples.inputs.split(BATCH_SIZE), samples.labels.split(BATCH_SIZE), strict=True):
        views = Views.of(model, preprocess, stored)
        taken = _trunks(runner, preprocess, stored)
        answers: dict[str, list[torch.Tensor]] = {"bundle": [], "fp32": []}
        for active in actives:
            expected = views.logits(shared_set(list(active), len(stored), torch.device("cpu")))
            sets = [active] * len(stored)
            found = averaged(
                taken,
                lambda tokens: torch.from_numpy(runner.head(bundle, tokens, sets, everything)),  # noqa: B023  # used at once
            )
            if bundle.readout == "prompt":  # one score per active prompt -> (B, C)
                found = torch.full_like(expected, -torch.inf).index_copy(1, torch.tensor(active), found)
            if active == everything:
                worst = float(np.maximum(worst, (found - expected).abs().max().item()))
            answers["fp32"].append(model.predict(expected) == labels)
            answers["bundle"].append(model.predict(found) == labels)
        for name, rows in answers.items():
            right[name].append(torch.stack(rows))  # (1 + C, B)
    result: dict[str, Any] = {
        "num_samples": len(samples.labels),
        **{name: _accuracies(torch.cat(parts, dim=1), samples.labels) for name, parts in right.items()},
        "worst_difference": worst,
    }
    return {**result, "warnings": judge(result["bundle"], result["fp32"])}


def _trunks(
    runner: GraphRunner, preprocess: Preprocess, stored: torch.Tensor
) -> list[tuple[Tensor, torch.Tensor | None]]:
    """What the graph's trunk makes of a batch as stored, window by window."""
    if runner.form.uint8_input:
        planes = stored.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
        return [(runner.trunk(planes.numpy()), None)]
    return [(runner.trunk(inputs.numpy()), weight) for inputs, weight in preprocess.windows(stored)]


def judge(found: dict[str, float], fp32: dict[str, float]) -> list[str]:
    """Sentences on what a precision spoils; none where it spoils nothing."""
    warnings = []
    lost = 100 * (fp32["accuracy"] - found["accuracy"])
    if lost > MOST_ACCURACY_LOST:
        warnings.append(f"accuracy is {lost:.1f} points below float32's; more than {MOST_ACCURACY_LOST} is too much")
    gained = 100 * (found["forget_k1"] - fp32["forget_k1"])
    if gained > MOST_FORGET_GAINED:
        warnings.append(
            f"forgotten classes are recognised {gained:.1f} points more often than in float32; "
            f"more than {MOST_FORGET_GAINED:.0f} is too much"
        )
    return warnings


def _accuracies(right: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """From right answers (1 + C, N), the first row with all prompts, row 1 + c without that of class c."""
    present = labels.unique().tolist()
    forget = [right[1 + c][labels == c].double().mean() for c in present]
    retain = [right[1 + c][labels != c].double().mean() for c in present if bool((labels != c).any())]
    return {
        "accuracy": float(right[0].double().mean()),
        "forget_k1": float(torch.stack(forget).mean()),
        "retain_k1": float(torch.stack(retain).mean()) if retain else float("nan"),
    }
