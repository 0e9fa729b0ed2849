"""Bundles in the forms that a service treats differently, and what stands in for a session."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from making.checkpoints import deep_prompt_checkpoint, image_checkpoint, sound_checkpoint
from pfm.model.checkpoint import Checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch

FORMS: dict[str, tuple[Callable[[], Checkpoint], dict[str, Any]]] = {
    "shared": (lambda: image_checkpoint("cls"), {}),
    "requests": (lambda: image_checkpoint("prompt-tokens"), {"per_request_prompts": True}),
    "split-images": (lambda: image_checkpoint("cls-lora-norm-tokens"), {"split": True, "uint8_input": True}),
    "requests-cls": (lambda: image_checkpoint("cls"), {"per_request_prompts": True}),
    "all": (deep_prompt_checkpoint, {"split": True, "uint8_input": True, "per_request_prompts": True}),
    "features": (lambda: sound_checkpoint("prompt"), {}),
    "waveform": (lambda: sound_checkpoint("cls"), {"with_frontend": True}),
}
SLOW_FORMS = ("requests-cls", "all", "features", "waveform")


def export_form(name: str, folder: Path) -> Path:
    """A bundle of one of FORMS."""
    make, form = FORMS[name]
    export_bundle(make(), folder, form=GraphForm(**form))
    return folder


class Recorder:
    """Answers every item with the first of its classes, and keeps what each pass was of.

    Attributes:
        passes: the active sets of the items of each pass.
    """

    def __init__(self) -> None:
        self.passes: list[list[ActiveSet]] = []

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        self.passes.append([chosen] * count)
        return answer(chosen, count)

    def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        (batch,) = batches
        assert sorted(set(batch.owners.tolist())) == list(range(len(sets)))
        self.passes.append(list(sets))
        return [answer(chosen, 1) for chosen in sets]


def answer(chosen: ActiveSet, count: int) -> Prediction:
    names = tuple(map(str, chosen.active or ("red",)))
    return Prediction([names[0]] * count, names, np.ones((count, len(names)), np.float32))


def rows(count: int = 1, shape: tuple[int, ...] = (2,), dtype: npt.DTypeLike = np.float32) -> Batch:
    return Batch.of_items(range(count), np.zeros((count, *shape), dtype))
