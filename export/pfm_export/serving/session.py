"""A bundle in service: ONNX Runtime, numpy and safetensors, no torch.

Letters: B batch, n items that are classified, K active classes.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.classes import UNKNOWN, ClassKeys, check_unknown
from pfm.errors import DataError
from pfm_export.serving.answers import ActiveSet, Prediction, Unknown, answers_of, answers_of_each
from pfm_export.serving.bank import Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.damage import require_whole
from pfm_export.serving.intake import as_array
from pfm_export.serving.kinds import Batch, InputKind
from pfm_export.serving.runner import GraphRunner
from pfm_export.serving.served import ServedBundle

__all__ = ["UNKNOWN", "ActiveSet", "Prediction", "PromptSession"]


class PromptSession(ServedBundle):
    """Predicts with any active set of classes, and erases a class from the bundle.

    Several threads may use one session. What an erasure or a suspension takes away, by this or by
    another process, is not among the answers of any call that returns after it.

    Args:
        folder: what `pfm export onnx` wrote, with any of its options.
        device: "cpu", "cuda", "tensorrt", "openvino", "openvino-bf16", or "auto": CUDA where there is a GPU, else the
            CPU. Ask `provider` which one it became.
        threads: of one prediction on the CPU; 0 leaves the choice to ONNX Runtime.
        cuda_graphs: record the kernels of each shape once and replay them; with device "cuda".
        warm_up: batch sizes to run once now, so that the first request need not wait.
        spin: let idle threads wait busily for work, ONNX Runtime's default; not good beside other work.

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
        self, folder: Path | str, *, device: str = "auto", threads: int = 0, cuda_graphs: bool = False,
        warm_up: Sequence[int] = (), spin: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(folder)
        self._opening = {
            "device": device, "threads": threads, "cuda_graphs": cuda_graphs, "warm_up": tuple(warm_up), "spin": spin,
        }  # fmt: skip
        stated = self._opened.stated
        require_whole(self._opened)
        check_unknown(self._opened.classes, has_answer=stated.unknown_score is not None or stated.unknown_below > 0)
        self._runner = GraphRunner(self._opened, device=device, threads=threads, cuda_graphs=cuda_graphs, spin=spin)
        for batch_size in warm_up:
            self.scores(self._runner.input.zeros(batch_size))

    def __getstate__(self) -> dict[str, object]:
        """Where the bundle is and how it is served: a copy in another process opens it again, as it is then."""
        return {"folder": self._folder, **self._opening}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def _on_change(self) -> None:
        self._runner.drop_rows()

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
        exact: bool = False,
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
            exact: answer with weights solved for these classes alone, once for each set of them; for a bundle of an
                exact readout that was exported with its sums.

        Raises:
            ClassNameError: an unknown, erased or suspended class, or an unknown profile.
            DataError: inputs of another shape or type, NaN or infinite, or pixels that were not normalised.
        """
        given = Batch.of_items(range(len(array := as_array(inputs))), array)
        return self.predict_prepared([given], len(array), ActiveSet.of(active, without, profile, exact=exact))

    def predict_prepared(self, batches: Iterable[Batch], count: int, chosen: ActiveSet) -> Prediction:
        """Classify items of which somebody has made graph inputs, as `input.batches` does; else as `predict`.

        Args:
            batches: gone through again where a class was erased or suspended meanwhile.
            count: of the items; each has a row at least.
        """
        return self._predict(lambda: batches, count, chosen)

    def predict_items(
        self,
        items: Any,
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
        exact: bool = False,
    ) -> Prediction:
        """Classify whatever the bundle's input kind reads, such as images or sounds; else as `predict`.

        Raises:
            DataError: an item that cannot be read, or none at all.
        """
        chosen, listed = ActiveSet.of(active, without, profile, exact=exact), self._runner.input.as_items(items)
        if len(listed) == 0:
            raise DataError(f"no {self._runner.input.items.removesuffix('s')} was given")
        return self._predict(lambda: self._runner.input.batches(listed), len(listed), chosen)

    def predict_images(
        self,
        images: Any,
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
        exact: bool = False,
    ) -> Prediction:
        """Classify images: a list of them, or one; else as `predict`.

        Args:
            images: file names, their bytes, PIL images, or uint8 arrays (H, W) or (H, W, 3).
        """
        self._runner.input.require_items("images")
        return self.predict_items(images, active, without=without, profile=profile, exact=exact)

    def predict_sounds(
        self,
        sounds: Any,
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
        exact: bool = False,
    ) -> Prediction:
        """Classify sounds; else as `predict`.

        A sound longer than the model's window is cut into windows, whose scores are averaged; a file of any
        length is read block by block. WAV needs nothing else installed; FLAC, OGG and MP3 need `soundfile`.

        Args:
            sounds: file names, their bytes, arrays (n,) of floats at the model's rate, or pairs of an array and its
                rate; a list of them, or one.

        Raises:
            DataError: a sound that cannot be read or is too short, or a bundle of images.
        """
        self._runner.input.require_items("sounds")
        return self.predict_items(sounds, active, without=without, profile=profile, exact=exact)

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
        array = as_array(inputs)
        if len(sets) != len(array):
            raise DataError(f"{len(array)} inputs, but {len(sets)} active sets")
        return self.predict_each_prepared([Batch.of_items(range(len(array)), array)], sets)

    def predict_each_prepared(self, batches: Iterable[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        """Classify items of which somebody has made graph inputs, each with a set of its own; else as `predict_each`.

        Args:
            batches: as for `predict_prepared`.
            sets: one for each item.
        """
        bundle, actives, scores = self._scores(lambda: batches, sets)
        are_exact: Sequence[bool | None] = [None] * len(sets)
        if bundle.exact is not None:
            are_exact = [bundle.is_exact_for(active, each.exact) for each, active in zip(sets, actives, strict=True)]
        return answers_of_each(bundle.classes, actives, scores, Unknown.of(bundle.stated), are_exact)

    def scores(
        self,
        inputs: npt.NDArray[Any],
        active: ClassKeys | None = None,
        *,
        without: ClassKeys = (),
        profile: str | None = None,
        exact: bool = False,
    ) -> Floats:
        """The graph's raw output (B, K), logits or scores as the readout has them; else as `predict`."""
        chosen, array = ActiveSet.of(active, without, profile, exact=exact), as_array(inputs)
        return np.stack(self._scores(lambda: [Batch.of_items(range(len(array)), array)], [chosen] * len(array))[2])

    def _predict(self, read: Callable[[], Iterable[Batch]], count: int, chosen: ActiveSet) -> Prediction:
        """All items with one active set."""
        bundle, positions, scores = self._scores(read, [chosen] * count)
        return answers_of(
            bundle.classes, positions[0], np.stack(scores), Unknown.of(bundle.stated),
            bundle.is_exact_for(positions[0], chosen.exact),
        )  # fmt: skip

    def _scores(
        self, read: Callable[[], Iterable[Batch]], sets: Sequence[ActiveSet]
    ) -> tuple[Bundle, list[tuple[int, ...]], list[Floats]]:
        """The bundle that answered, and each item's positions and scores (K,), the average over its batch rows.

        Where something was erased, suspended or restored meanwhile, what that changes is answered once more.
        """
        scores: list[Floats] = [np.zeros(0, np.float32)] * len(sets)
        actives: list[tuple[int, ...]] = []
        answered: Bundle | None = None
        while True:
            bundle = self._bundle
            if bundle is answered:
                return bundle, actives, scores
            actives = [chosen.positions(bundle) for chosen in sets]
            anew = [answered is None or not chosen.is_answered_alike(answered, bundle) for chosen in sets]
            if any(anew):
                self._score(bundle, (batch.of_some(anew) for batch in read()), sets, actives, scores)
            answered = bundle

    def _score(
        self, bundle: Bundle, batches: Iterable[Batch], sets: Sequence[ActiveSet], actives: list[tuple[int, ...]],
        scores: list[Floats],
    ) -> None:  # fmt: skip
        """Put each item's scores in its place; of items that have no row in the batches they stay."""
        totals: dict[int, Any] = {}
        weights: dict[int, float] = {}
        for batch in batches:
            if batch.is_plain and len(batch.inputs) == len(sets):
                scores[:] = self._answered(bundle, batch, sets, actives)
                continue
            owners: list[int] = batch.owners.tolist()
            rows = (
                self._answered(bundle, batch, [sets[owner] for owner in owners], [actives[owner] for owner in owners])
                if owners
                else []
            )
            for owner, weight, row in zip(owners, batch.weights.tolist(), rows, strict=True):
                totals[owner] = totals.get(owner, 0.0) + weight * row.astype(np.float64)
                weights[owner] = weights.get(owner, 0.0) + weight
        for item, total in totals.items():
            scores[item] = (total / weights[item]).astype(np.float32)

    def _answered(
        self, bundle: Bundle, batch: Batch, sets: Sequence[ActiveSet], actives: Sequence[tuple[int, ...]]
    ) -> list[Floats]:
        """Scores (K,) of each row of a batch, of its own set."""
        if not any(chosen.exact for chosen in sets):
            return self._runner.scores(bundle, batch.inputs, actives)
        rows: list[Floats] = [np.zeros(0, np.float32)] * len(sets)
        for chosen, active in dict(zip(sets, actives, strict=True)).items():
            places = [place for place, other in enumerate(sets) if other == chosen]
            served = bundle.solved_for(active) if chosen.exact else bundle
            scores = self._runner.scores(served, batch.inputs[places], [active] * len(places))
            for place, row in zip(places, scores, strict=True):
                rows[place] = row
        return rows
