"""A bundle in service: ONNX Runtime, numpy and safetensors, no torch.

Letters: B batch, K active classes, H and W pixels of an image.
"""

import ctypes.util
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # type: ignore[attr-defined]  # no stubs

from pfm.classes import ClassList
from pfm.errors import BundleError, ClassNameError, DataError, DeviceError
from pfm.pixels import UNREADABLE, decode, explain_unreadable
from pfm_export.bundle import OUTPUT, Bundle, Rows, open_whole, stamp

UNKNOWN = "unknown"
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


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
    probabilities: np.ndarray


class PromptSession:
    """Predicts with any active set of classes, and erases a class from the bundle.

    Args:
        folder: what `pfm export onnx` wrote.
        device: "cpu", "cuda", or "auto": a GPU where there is one.
        threads: of one prediction on the CPU; 0 leaves the choice to ONNX Runtime.

    Raises:
        BundleError: the bundle is incomplete or was changed.
        DeviceError: the device asked for is not there.

    Example:
        >>> session = PromptSession("bundle")
        >>> session.predict_images(["cell.png"]).labels
        ['lymphocyte']
        >>> session.predict_images(["cell.png"], without=["lymphocyte"]).labels
        ['monocyte']
    """

    def __init__(self, folder: Path | str, *, device: str = "auto", threads: int = 0) -> None:
        self._folder = Path(folder)
        self._lock = threading.Lock()
        self._seen, self._opened = open_whole(self._folder)
        self._graph_sha256 = self._opened.graph_sha256
        self._runtime = load_graph(self._opened, device=device, threads=threads)

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
            if opened.graph_sha256 != self._graph_sha256:
                raise BundleError(f"{self._folder} is another bundle now; open it again")
            self._seen, self._opened = seen, opened
            return opened

    @property
    def classes(self) -> ClassList:
        """The classes that can be served."""
        return self._bundle.classes

    @property
    def manifest(self) -> dict[str, Any]:
        return self._bundle.manifest

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graph."""
        return self._runtime.get_providers()[0]

    def active(self, active: Iterable[str | int] | None = None, without: Iterable[str | int] = ()) -> list[int]:
        """Positions of an active set: the named classes (default all), less those in `without`."""
        return _active(self.classes, active, without)

    def scores(self, inputs: np.ndarray, rows: Rows) -> np.ndarray:
        """The graph's raw output (B, K) for model inputs and bank rows."""
        feed = {self._bundle.input_name: np.ascontiguousarray(inputs, dtype=np.float32), **rows.feed()}
        try:
            return np.asarray(self._runtime.run([OUTPUT[self._bundle.readout]], feed)[0])
        except (InvalidArgument, ValueError) as error:
            raise DataError(f"the input does not fit the graph: {' '.join(str(error).split())[:200]}") from error

    def predict(
        self,
        inputs: np.ndarray,
        active: Iterable[str | int] | None = None,
        *,
        without: Iterable[str | int] = (),
    ) -> Prediction:
        """Classify preprocessed inputs.

        Args:
            inputs: (B, 3, S, S) float32, as `preprocess` makes them.
            active: names or numbers of the classes to choose from; default all that are there.
            without: classes to leave out, for this call only (*suspend*: reversible).

        Raises:
            ClassNameError: an unknown or erased class.
            DataError: inputs of another shape.
        """
        active, without = None if active is None else list(active), list(without)
        while True:
            bundle = self._bundle
            prediction = self._predict(bundle, inputs, active, without)
            if self._bundle is bundle:  # or a class may have been erased meanwhile
                return prediction

    def _predict(
        self, bundle: Bundle, inputs: np.ndarray, active: list[str | int] | None, without: list[str | int]
    ) -> Prediction:
        positions = _active(bundle.classes, active, without)
        names = tuple(bundle.classes.names[p] for p in positions)
        if not positions:
            raise DataError("no class is active; name at least one")
        scores = self.scores(inputs, bundle.rows(positions))
        if bundle.has_unknown:  # a fixed score of 0 that stands for none of these
            scores = np.concatenate([scores, np.zeros((len(scores), 1), scores.dtype)], axis=1)
        shifted = np.exp(scores - scores.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        answers = (*names, UNKNOWN)
        labels = [answers[winner] for winner in scores.argmax(axis=1)]
        return Prediction(labels, names, probabilities[:, : len(names)])

    def predict_images(
        self, images: Sequence[Any], active: Iterable[str | int] | None = None, *, without: Iterable[str | int] = ()
    ) -> Prediction:
        """Classify images: file names, PIL images, or uint8 arrays (H, W) or (H, W, 3)."""
        return self.predict(preprocess(images, self._bundle.preprocess), active, without=without)

    def erase(self, classes: Iterable[str | int], *, reason: str = "", requested_by: str = "") -> None:
        """Remove classes from the bundle's files and from this session, for good."""
        self._bundle.erase(classes, reason=reason, requested_by=requested_by)


def _active(classes: ClassList, active: Iterable[str | int] | None, without: Iterable[str | int]) -> list[int]:
    chosen = list(range(len(classes))) if active is None else classes.positions(active)
    away = classes.positions(without)
    if len(away) == len(classes):
        raise ClassNameError("every class is left out; leave at least one active")
    return [position for position in chosen if position not in away]


def preprocess(images: Sequence[Any], settings: dict[str, Any]) -> np.ndarray:
    """Images -> (B, 3, S, S) float32: resized without cropping, normalised, as in training.

    Raises:
        DataError: an image that cannot be read.
    """
    size, resample = settings["size"], settings["resample"]
    mean = np.asarray(settings["mean"], np.float32).reshape(3, 1, 1) * 255
    std = np.asarray(settings["std"], np.float32).reshape(3, 1, 1) * 255
    return np.stack([(_pixels(image, size, resample) - mean) / std for image in images])


def _pixels(image: Any, size: int, resample: str) -> np.ndarray:
    """One image as (3, size, size) float32 in 0..255."""
    from PIL import Image

    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        try:
            image = decode(Image.open(image))
        except UNREADABLE as error:
            raise DataError(f"cannot read {name}: {explain_unreadable(error)}") from error
    elif isinstance(image, Image.Image):
        image = decode(image.copy())
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise DataError(f"an image must be uint8 of shape H x W or H x W x 3, got {array.dtype} {array.shape}")
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    if planes.shape[1:] != (size, size):
        method = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}[resample]
        # mode F: the same antialiased resize as in training, without rounding between the two passes
        resized = [np.asarray(Image.fromarray(p.astype(np.float32)).resize((size, size), method)) for p in planes]
        planes = np.stack(resized)
    return np.repeat(planes, 3, axis=0).astype(np.float32) if len(planes) == 1 else planes.astype(np.float32)


def load_graph(
    bundle: Bundle, *, device: str = "auto", threads: int = 0, spin: bool = True
) -> onnxruntime.InferenceSession:
    """The bundle's graph in ONNX Runtime.

    Args:
        spin: let idle threads wait busily for the next call, ONNX Runtime's default.

    Raises:
        DeviceError: "cuda" was asked for and the graph does not run there.
        BundleError: ONNX Runtime refuses the graph.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"no device {device!r}; choose auto, cpu or cuda")
    wants_cuda = device == "cuda" or (device == "auto" and _has_nvidia_gpu())
    if wants_cuda and CUDA not in onnxruntime.get_available_providers():
        if device == "cuda":
            raise DeviceError("this onnxruntime is a CPU build; install onnxruntime-gpu, or use --device cpu")
        wants_cuda = False
    if wants_cuda and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = [CUDA, CPU] if wants_cuda else [CPU]
    try:
        session = onnxruntime.InferenceSession(bundle.model_bytes(), options, providers=providers)
    except BundleError:
        raise
    except Exception as error:  # onnxruntime has a class of its own for each of its status codes
        raise BundleError(f"ONNX Runtime refuses the graph: {' '.join(str(error).split())[:200]}") from error
    if device == "cuda" and session.get_providers()[0] != CUDA:
        raise DeviceError("the graph does not run on CUDA here (driver, CUDA 13 or cuDNN 9 missing); use --device cpu")
    return session


def _has_nvidia_gpu() -> bool:
    if os.name == "nt":
        return ctypes.util.find_library("nvcuda") is not None
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
