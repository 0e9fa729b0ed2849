"""A bundle in service: ONNX Runtime, numpy and safetensors, no torch.

Letters: B batch, n items that are classified, K active classes.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.classes import UNKNOWN, ClassKeys, ClassList, check_unknown, class_keys
from pfm.errors import BundleError, ClassNameError, DataError
from pfm.options import expanded
from pfm_export.serving.bank import Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.kinds import Batch, InputKind
from pfm_export.serving.manifest import Manifest
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.watching import open_whole, stamp


@dataclass(frozen=True)
class ActiveSet:
    """Which classes one request may be answered with.

    Attributes:
        active: names (strings) or numbers (ints) of the classes to choose from; default all that the profile leaves.
        without: classes to leave out of them.
        profile: whose suspended classes are left out; default the profile "default", if there is one.
    """

    active: tuple[str | int, ...] | None = None
    without: tuple[str | int, ...] = ()
    profile: str | None = None

    def __post_init__(self) -> None:
        if self.active is not None:
            object.__setattr__(self, "active", class_keys(self.active))  # a bare string is one class
        object.__setattr__(self, "without", class_keys(self.without))

    @classmethod
    def of(
        cls,
        active: ClassKeys | None = None,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> "ActiveSet":
        return cls(None if active is None else class_keys(active), class_keys(without), profile)

    def positions(self, bundle: Bundle) -> tuple[int, ...]:
        """Positions in the bundle, ascending.

        Raises:
            ClassNameError: an unknown, erased or suspended class was named, or none is left.
        """
        classes, suspended = bundle.classes, bundle.suspended(self.profile)
        chosen = list(range(len(classes))) if self.active is None else classes.positions(self.active)
        stopped = [classes.names[p] for p in chosen if p in suspended]
        if self.active is not None and stopped:
            raise ClassNameError(f"suspended in profile {self.profile or 'default'!r}: {', '.join(stopped)}")
        away = {*suspended, *classes.positions(self.without)}
        if len(away) == len(classes):
            raise ClassNameError("every class is left out; leave at least one active")
        left = tuple(position for position in chosen if position not in away)
        if not left:
            raise ClassNameError("no class is active; name at least one")
        return left


@dataclass(frozen=True)
class Prediction:
    """Answers for a batch.

    Attributes:
        labels: name of the winning class of each input; "unknown" where the model has that answer.
        classes: names of the active classes, the columns of `probabilities`.
        probabilities: (B, K), over the active classes; a row sums to less than 1 by the share of "unknown".
    """

    labels: list[str]
    classes: tuple[str, ...]
    probabilities: Floats


class PromptSession:
    """Predicts with any active set of classes, and erases a class from the bundle.

    Several threads may use one session. What an erasure or a suspension takes away, by this or by
    another process, is not among the answers of any call that returns after it.

    Args:
        folder: what `pfm export onnx` wrote, with any of its options.
        device: "cpu", "cuda", "tensorrt", or "auto": CUDA where there is a GPU, else the CPU. Ask
            `provider` which one it became.
        threads: of one prediction on the CPU; 0 leaves the choice to ONNX Runtime.
        cuda_graphs: record the kernels of each shape once and replay them; with device "cuda".
        warm_up: batch sizes to run once now, so that the first request need not wait.

    Raises:
        BundleError: the bundle is incomplete or was changed.
        ClassNameError: a class is called as the answer `unknown` is.
        DeviceError: the device asked for is not there.

    Example:
        >>> session = PromptSession("bundle")
        >>> session.predict_images(["cell.png"]).labels
        ['lymphocyte']
        >>> session.predict_images(["cell.png"], without=["lymphocyte"]).labels
        ['monocyte']
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        device: str = "auto",
        threads: int = 0,
        cuda_graphs: bool = False,
        warm_up: Sequence[int] = (),
    ) -> None:
        self._folder = expanded(Path(folder)).absolute()  # the process may go to another folder
        self._lock = threading.Lock()
        self._seen, self._opened = open_whole(self._folder)
        self._graph_hashes = self._opened.graph_hashes
        stated = self._opened.stated
        check_unknown(self._opened.classes, has_answer=stated.unknown_score is not None or stated.unknown_below > 0)
        self._runner = GraphRunner(self._opened, device=device, threads=threads, cuda_graphs=cuda_graphs)
        for batch_size in warm_up:
            self.scores(self._runner.input.zeros(batch_size))

    @property
    def _bundle(self) -> Bundle:
        """The bundle as it is on disk now: another process may have erased a class from it.

        Raises:
            BundleError: it was damaged since, or another one was put in its place.
        """
        if stamp(self._folder) == self._seen:
            return self._opened
        with self._lock:
            seen, opened = open_whole(self._folder)
            if opened.graph_hashes != self._graph_hashes:
                raise BundleError(f"{self._folder} is another bundle now; open it again")
            self._seen, self._opened = seen, opened
            self._runner.drop_rows()
            return opened

    @property
    def classes(self) -> ClassList:
        """The classes that are there, suspended or not."""
        return self._bundle.classes

    @property
    def manifest(self) -> dict[str, Any]:
        """The bundle's manifest, as read."""
        return self._bundle.manifest

    @property
    def stated(self) -> Manifest:
        """What the manifest says, with types."""
        return self._bundle.stated

    @property
    def input(self) -> InputKind:
        """What `predict` takes."""
        return self._runner.input

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return self._runner.provider

    def active(
        self,
        active: ClassKeys | None = None,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> tuple[str, ...]:
        """Names of the classes of an active set, as `predict` would have them now."""
        bundle = self._bundle
        return tuple(bundle.classes.names[p] for p in ActiveSet.of(active, without, profile).positions(bundle))

    def predict(
        self,
        inputs: npt.NDArray[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> Prediction:
        """Classify model inputs.

        Args:
            inputs: (B, 3, S, S) float32, as `preprocess` makes them; (B, H, W, 3) uint8 for a bundle
                exported with --uint8_input. Of sounds (B, L, M) float32 features, normalised, or with --with_frontend
                samples (B, n) float32, NaN behind the end of a clip.
            active: names (strings) or numbers (ints) of the classes to choose from, one or several; default all that
                are there.
            without: classes to leave out, for this call only, in the same way.
            profile: leave out the classes suspended in this profile; default the profile "default", if any.

        Raises:
            ClassNameError: an unknown, erased or suspended class, or an unknown profile.
            DataError: inputs of another shape or type.
        """
        chosen = ActiveSet.of(active, without, profile)
        bundle, positions, scores = self._scores(lambda: [_given(inputs)], [chosen] * len(inputs))
        return _answers(bundle, positions[0], np.stack(scores))

    def predict_items(
        self,
        items: Sequence[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> Prediction:
        """Classify whatever the bundle's input kind reads, such as images or sounds; else as `predict`.

        Raises:
            DataError: an item that cannot be read, or none at all.
        """
        chosen = ActiveSet.of(active, without, profile)
        bundle, positions, scores = self._scores(lambda: self._runner.input.batches(items), [chosen] * len(items))
        return _answers(bundle, positions[0], np.stack(scores))

    def predict_images(
        self,
        images: Sequence[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> Prediction:
        """Classify images: file names, PIL images, or uint8 arrays (H, W) or (H, W, 3); else as `predict`."""
        self._runner.input.require_items("images")
        return self.predict_items(images, active, without=without, profile=profile)

    def predict_sounds(
        self,
        sounds: Sequence[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> Prediction:
        """Classify sounds; else as `predict`.

        A sound longer than the model's window is cut into windows, whose scores are averaged; a file of any
        length is read block by block. WAV needs nothing else installed; FLAC, OGG and MP3 need `soundfile`.

        Args:
            sounds: file names, arrays (n,) of floats at the model's rate, or pairs of an array and its rate.

        Raises:
            DataError: a sound that cannot be read or is too short, or a bundle of images.
        """
        self._runner.input.require_items("sounds")
        return self.predict_items(sounds, active, without=without, profile=profile)

    def predict_each(self, inputs: npt.NDArray[Any], sets: Sequence[ActiveSet]) -> list[Prediction]:
        """Classify each input with an active set of its own, for batches that mix tenants.

        A bundle exported with --per_request_prompts does it in one pass. With --split the trunk runs
        once, and the head once for each set; otherwise the whole graph runs once for each set.

        Args:
            inputs: (B, …), as for `predict`.
            sets: B of them.

        Returns:
            B predictions of one input each.

        Raises:
            ClassNameError, DataError: as `predict`.
        """
        if len(sets) != len(inputs):
            raise DataError(f"{len(inputs)} inputs, but {len(sets)} active sets")
        bundle, actives, scores = self._scores(lambda: [_given(inputs)], sets)
        return [_answers(bundle, active, row[None]) for active, row in zip(actives, scores, strict=True)]

    def scores(
        self,
        inputs: npt.NDArray[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
    ) -> Floats:
        """The graph's raw output (B, K), logits or scores as the readout has them; else as `predict`."""
        chosen = ActiveSet.of(active, without, profile)
        return np.stack(self._scores(lambda: [_given(inputs)], [chosen] * len(inputs))[2])

    def erase(self, classes: ClassKeys, *, reason: str = "", requested_by: str = "") -> None:
        """Remove classes from the bundle's files and from this session, for good."""
        self._bundle.erase(classes, reason=reason, requested_by=requested_by)
        _ = self._bundle  # takes notice, and lets go of the rows

    def suspend(self, classes: ClassKeys, *, profile: str = "default") -> None:
        """Leave classes out of a profile's answers until `restore`; no byte of them is removed."""
        self._bundle.suspend(classes, profile=profile)

    def restore(self, classes: ClassKeys, *, profile: str = "default") -> None:
        """Undo `suspend`."""
        self._bundle.restore(classes, profile=profile)

    def _scores(
        self, read: Callable[[], Iterable[Batch]], sets: Sequence[ActiveSet]
    ) -> tuple[Bundle, list[tuple[int, ...]], list[Floats]]:
        """The bundle that answered, and each item's positions and scores (K,), the average over its batch rows."""
        while True:
            bundle = self._bundle
            found = {chosen: chosen.positions(bundle) for chosen in dict.fromkeys(sets)}
            actives = [found[chosen] for chosen in sets]
            totals = [np.zeros(len(active)) for active in actives]
            weights = np.zeros(len(sets))
            for batch in read():
                owners: list[int] = batch.owners.tolist()
                rows = self._runner.scores(bundle, batch.inputs, [actives[owner] for owner in owners])
                for owner, weight, row in zip(owners, batch.weights, rows, strict=True):
                    totals[owner] += weight * row
                    weights[owner] += weight
            if self._bundle is bundle:  # or a class may have been erased or suspended meanwhile
                pairs = zip(totals, weights, strict=True)
                return bundle, actives, [(total / weight).astype(np.float32) for total, weight in pairs]


def _given(inputs: npt.NDArray[Any]) -> Batch:
    """Graph inputs (B, …) that the caller made, one an item."""
    if len(inputs) == 0:
        raise DataError("no input was given")
    return Batch.of_items(range(len(inputs)), inputs)


def _answers(bundle: Bundle, active: tuple[int, ...], scores: Floats) -> Prediction:
    """From scores (n, K)."""
    names = tuple(bundle.classes.names[p] for p in active)
    unknown, threshold = bundle.stated.unknown_score, bundle.stated.unknown_below
    if unknown is not None:
        scores = np.concatenate([scores, np.full((len(scores), 1), unknown, scores.dtype)], axis=1)
    shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    answers = (*names, UNKNOWN)
    winners = scores.argmax(axis=1)
    if threshold:
        winners = np.where(probabilities.max(axis=1) < threshold, len(names), winners)
    labels = [answers[int(winner)] for winner in winners]
    return Prediction(labels, names, probabilities[:, : len(names)])
