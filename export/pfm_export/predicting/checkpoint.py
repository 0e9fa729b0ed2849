"""A checkpoint that answers as a bundle of it would: files are read by the same code, torch computes.

Letters: B batch, K active classes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch leaves the types of some of its own functions open

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np
import torch

from pfm.classes import ClassList
from pfm.device import compute_in_float32
from pfm.errors import ClassNameError, DeviceError
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.targets import TARGETS
from pfm_export.serving.answers import ActiveSet, Prediction, Unknown, answers_of
from pfm_export.serving.kinds import Batch, InputKind, ordinary_kind


class CheckpointModel:
    """A checkpoint in the place of a session; several threads may use it.

    Its backbone is loaded by `loaded`, or by the first prediction.

    Attributes:
        notes: what had to be assumed when a foreign file was read.

    Raises:
        CheckpointError: it cannot be read.
        DeviceError: a device that torch does not have.
    """

    def __init__(self, path: Path, *, model_name: str | None = None, device: str = "auto") -> None:
        self._device = _device(device)
        checkpoint = load_checkpoint(path, model_name=model_name)
        self.notes = checkpoint.notes
        self._classes = checkpoint.classes
        self._checkpoint: Checkpoint | None = checkpoint  # until its model is there, which has tensors of its own
        self._model: PromptedClassifier | None = None
        preprocess = checkpoint.preprocess
        self._input = ordinary_kind(preprocess.kind)(preprocess.to_dict())
        logit = TARGETS.get(checkpoint.model.wrong_target).unknown_logit
        self._unknown = Unknown(score=None if logit == -torch.inf else logit, below=checkpoint.unknown_below)
        self._lock = threading.Lock()

    def loaded(self) -> Self:
        """The same, with its backbone, which may be far away and take long.

        Raises:
            BackboneError: it is not there.
            CheckpointError: the tensors do not fit it.
        """
        with self._lock:
            self._build()
        return self

    def _build(self) -> PromptedClassifier:
        """For who holds the lock."""
        if self._model is None:
            assert self._checkpoint is not None
            self._model = self._checkpoint.build_model().to(self._device)
            self._checkpoint = None
        return self._model

    @property
    def classes(self) -> ClassList:
        """Those that are there."""
        return self._classes

    @property
    def input(self) -> InputKind:
        """How files become inputs."""
        return self._input

    @torch.inference_mode()
    def predict_prepared(self, batches: Iterable[Batch], count: int, chosen: ActiveSet) -> Prediction:
        """As `PromptSession.predict_prepared`: a class that is left out has neither prompt nor classifier row."""
        positions = self.positions(chosen)
        totals, weights = np.zeros((count, len(positions))), np.zeros((count, 1))
        for batch in batches:
            inputs = torch.from_numpy(self._input.checked(batch.inputs)).to(self._device)
            present = shared_set(list(positions), len(inputs), self._device)
            with self._lock:  # of the backbone, which keeps the keys of a batch's dropout
                model = self._build()
                logits = model.logits(inputs, present)[:, list(positions)]  # (B, K)
            np.add.at(totals, batch.owners, logits.float().cpu().numpy() * batch.weights[:, None])
            np.add.at(weights, batch.owners, batch.weights[:, None])
        return answers_of(self.classes, positions, (totals / weights).astype(np.float32), self._unknown)

    def positions(self, chosen: ActiveSet) -> tuple[int, ...]:
        """Of the classes of an active set.

        Raises:
            ClassNameError: an unknown class, none that is left, or a profile.
        """
        if chosen.profile is not None:
            raise ClassNameError("--profile is of bundles; a checkpoint has none")
        return chosen.positions_among(self.classes)


def _device(name: str) -> torch.device:
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"--device {name} is for bundles; a checkpoint is computed by torch, on cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch finds no GPU; use --device cpu")
    compute_in_float32()
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
