"""ONNX Runtime: which execution provider runs a graph, and calls with tensors that stay on its device."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# onnxruntime has no types

import contextlib
import ctypes.util
import io
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument  # type: ignore[attr-defined]  # no stubs

from pfm.errors import BundleError, DataError, DeviceError
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.devices import DEVICES, HINTS
from pfm_export.serving.inspection import check_graph
from pfm_export.serving.signature import MODEL, Signature

T = TypeVar("T")
TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"
MOST_CAPTURED = 16  # shapes that a CUDA graph is kept for; the others run without one
# of ONNX Runtime's rewrites: its CPU kernel for an addition with LayerNorm takes seven times as long as the two, and
# CUDA's for an addition with softmax fails where there is nothing to add, as for a request without a class
REWRITES_LEFT_OUT = {CPU: ["SkipLayerNormFusion"], CUDA: ["BiasSoftmaxFusion"]}
# attention kernels of its fp16 graphs that run any shape: flash (1), memory-efficient (2) and the plain products (16).
# Left alone, ONNX Runtime prefers cuDNN's (8) from Hopper on, and cuDNN plans anew for each number of rows and tokens
SHAPE_FREE_ATTENTION = str(1 | 2 | 16)
REFUSALS = ("INVALID_ARGUMENT", "Unexpected input", "invalid dimensions", "Invalid rank")  # of a binding, about inputs
NOT_CAPTURED = "-1"  # of ONNX Runtime: do not capture this run


@dataclass(frozen=True)
class HostTensor:
    """An array that is where a graph takes it, or gave it."""

    array: np.ndarray

    def numpy(self) -> np.ndarray:
        """The array."""
        return self.array

    def shape(self) -> list[int]:
        """Of the array."""
        return list(self.array.shape)


Tensor = np.ndarray | onnxruntime.OrtValue | HostTensor


def load_graph(
    bundle: Bundle,
    *,
    device: str = "auto",
    threads: int = 0,
    spin: bool = True,
    name: str = MODEL,
    cuda_graphs: bool = False,
) -> onnxruntime.InferenceSession:
    """One of the bundle's graphs in ONNX Runtime.

    Args:
        device: "auto" is CUDA where there is a GPU and ONNX Runtime can use it, else the CPU. TensorRT
            builds an engine for minutes before the first answer, so it runs only where it is asked for.
        threads: of one pass on the CPU; 0 leaves the choice to ONNX Runtime.
        spin: let idle threads wait busily for the next call, ONNX Runtime's default.
        name: which of the bundle's graphs.
        cuda_graphs: record the kernels of a shape once and replay them; with device "cuda".

    Raises:
        DeviceError: the device asked for is not there, or the graph does not run on it.
        BundleError: the graph names other files, or ONNX Runtime refuses it.
    """
    providers = choose_providers(device)
    if cuda_graphs and providers[0] != CUDA:
        raise DeviceError("CUDA graphs need --device cuda")
    missing = _load_libraries() if providers[0] != CPU else ""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings = provider_settings(is_half=bundle.stated.precision == "fp16", cuda_graphs=cuda_graphs)
    if bundle.exact is not None and providers[0] == TENSORRT:
        raise DeviceError(
            "TensorRT rounds float32 products, and the integers of an exact readout have to be exact; use --device cuda"
        )
    content = bundle.model_bytes(name)
    check_graph(content, name)
    try:
        session = onnxruntime.InferenceSession(
            content,
            options,
            providers=[(provider, settings[provider]) for provider in providers],
            disabled_optimizers=REWRITES_LEFT_OUT.get(providers[0]),
        )
    except Exception as error:  # onnxruntime has a class of its own for each of its status codes
        raise BundleError(f"ONNX Runtime refuses the graph: {' '.join(str(error).split())[:200]}") from error
    running = session.get_providers()[0]
    if device in ("cuda", "tensorrt") and running != providers[0]:
        raise DeviceError(
            f"the graph does not run on {device} here, but on {running}: driver, CUDA 13, cuDNN 9 or TensorRT is "
            f"missing{missing}; use --device cpu"
        )
    return session


def _load_libraries() -> str:
    """Load CUDA and cuDNN where pip put them, which ONNX Runtime does not look for by itself; what it lacks, in words.

    What it prints of them goes to nobody: standard output is for answers.
    """
    if not hasattr(onnxruntime, "preload_dlls"):
        return ""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        onnxruntime.preload_dlls()
    lines = [line.removeprefix("Failed to load ") for line in said.getvalue().splitlines() if "Failed to load" in line]
    return f" ({'; '.join(lines)[:200]})" if lines else ""


def provider_settings(*, is_half: bool, cuda_graphs: bool) -> dict[str, dict[str, str]]:
    """What each execution provider is told.

    CUDA may not round the factors of float32 products to TF32, which keeps 10 bits of 23: what is exported in float32
    answers as on a CPU, and integers of an exact readout stay exact. Who wants speed exports in fp16.

    Nor may it search long for kernels: batches of a server have any size, and cuDNN plans a convolution at each change.

    Args:
        is_half: the graph computes in fp16.
    """
    cuda = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    if is_half:
        cuda["sdpa_kernel"] = SHAPE_FREE_ATTENTION
    if cuda_graphs:
        cuda["enable_cuda_graph"] = "1"
    tensorrt = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(_engine_cache())}
    return {
        TENSORRT: {**tensorrt, "trt_fp16_enable": "1"} if is_half else tensorrt,
        CUDA: cuda,
        CPU: {},
    }


@dataclass(frozen=True)
class End:
    """An input or output of a graph: its name, type as ONNX Runtime writes it, and shape; an open size has a name."""

    name: str
    type: str
    shape: tuple[int | str, ...]


def ends_of(session: onnxruntime.InferenceSession) -> tuple[tuple[End, ...], tuple[End, ...]]:
    """Inputs and outputs of a loaded graph, in order."""
    inputs, outputs = (
        tuple(End(node.name, node.type, tuple(node.shape)) for node in nodes)
        for nodes in (session.get_inputs(), session.get_outputs())
    )
    return inputs, outputs


def choose_providers(device: str) -> list[str]:
    """Execution providers in the order in which ONNX Runtime shall try them.

    Raises:
        DeviceError: an unknown device, or one that this build of ONNX Runtime does not have.
    """
    if device not in DEVICES or device in HINTS:
        raise DeviceError(f"there is no device {device!r}; choose {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    there = onnxruntime.get_available_providers()
    if device == "cpu":
        return [CPU]
    if device == "auto":
        return [CUDA, CPU] if CUDA in there and _has_nvidia_gpu() else [CPU]
    wanted = {"cuda": [CUDA, CPU], "tensorrt": [TENSORRT, CUDA, CPU]}[device]
    if wanted[0] not in there:
        raise DeviceError(f"this onnxruntime has no {wanted[0]}; install onnxruntime-gpu, or use --device cpu")
    return wanted


@dataclass
class _Captured:
    """The buffers of one shape, whose addresses a recorded CUDA graph holds."""

    number: str
    inputs: dict[str, onnxruntime.OrtValue] = field(default_factory=dict)
    output: onnxruntime.OrtValue | None = None


class Graph:
    """A loaded graph with one output; takes arrays, or tensors that are already on its device.

    Args:
        keeps_output: leave the output on the device, for the graph behind this one.
        captures: the graph was loaded with CUDA graphs. One thread makes all its passes then: ONNX Runtime records for
            each thread apart, and what one replays another's recording may overwrite.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, *, keeps_output: bool = False, captures: bool = False
    ) -> None:
        self.session = session
        self.provider = session.get_providers()[0]
        self.device = "cpu" if self.provider == CPU else "cuda"
        inputs, outputs = ends_of(session)
        self.signature = Signature(tuple(end.name for end in inputs), tuple(end.name for end in outputs))
        self._names = list(self.signature.outputs[:1])
        self._output_device = self.device if keeps_output else "cpu"
        self._recorder = ThreadPoolExecutor(1, "pfm-cuda-graphs") if captures else None
        self._captured: dict[tuple[tuple[int, ...], ...], _Captured] = {}

    def put(self, array: np.ndarray) -> onnxruntime.OrtValue:
        """The array on the graph's device."""
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.device)

    def numbers(self, feed: Mapping[str, Tensor]) -> npt.NDArray[Any]:
        """The output as an array; else as `run`."""
        if self.device != "cpu" or not all(isinstance(value, np.ndarray) for value in feed.values()):
            return self.run(feed).numpy()
        # without a binding: half the calls
        return self._checked(lambda: cast("npt.NDArray[Any]", self.session.run(self._names, dict(feed))[0]))

    def run(self, feed: Mapping[str, Tensor]) -> onnxruntime.OrtValue:
        """The output, on the CPU or where `keeps_output` says.

        Raises:
            DataError: an input of another shape or type.
        """
        if (recorder := self._recorder) is not None:
            return self._checked(lambda: recorder.submit(self._replay, feed).result())
        return self._checked(lambda: self._run(feed))

    def _checked(self, run: Callable[[], T]) -> T:
        try:
            return run()
        except (InvalidArgument, ValueError) as error:
            raise DataError(f"the input does not fit the graph: {' '.join(str(error).split())[:200]}") from error
        except RuntimeError as error:  # a binding says so of a wrong type or rank
            if any(text in str(error) for text in REFUSALS):
                raise DataError(f"the input does not fit the graph: {' '.join(str(error).split())[:200]}") from error
            raise

    def _run(self, feed: Mapping[str, Tensor], options: onnxruntime.RunOptions | None = None) -> onnxruntime.OrtValue:
        binding = self.session.io_binding()
        for name, value in feed.items():
            binding.bind_ortvalue_input(name, self.put(value) if isinstance(value, np.ndarray) else value)
        binding.bind_output(self.signature.outputs[0], self._output_device)
        self.session.run_with_iobinding(binding, options)
        return binding.get_outputs()[0]

    def _replay(self, feed: Mapping[str, Tensor]) -> onnxruntime.OrtValue:
        """One recorded graph for each set of shapes; its inputs are copied to where the recording reads them.

        For the thread of the recordings alone.
        """
        arrays = {name: _array(value) for name, value in feed.items()}
        key = tuple(arrays[name].shape for name in self.signature.inputs)
        options = onnxruntime.RunOptions()
        kept = self._captured.get(key)
        if kept is None and len(self._captured) >= MOST_CAPTURED:
            options.add_run_config_entry("gpu_graph_id", NOT_CAPTURED)
            return self._run(arrays, options)
        if kept is None:
            kept = _Captured(str(len(self._captured) + 1))
            kept.inputs = {name: self.put(array) for name, array in arrays.items()}
            options.add_run_config_entry("gpu_graph_id", NOT_CAPTURED)
            first = self._run(kept.inputs, options).numpy()  # whose shape the output has
            kept.output = self.put(first)
            self._captured[key] = kept  # now that inputs of these shapes are known to fit
            options = onnxruntime.RunOptions()
        else:
            for name, array in arrays.items():
                kept.inputs[name].update_inplace(np.ascontiguousarray(array))
        options.add_run_config_entry("gpu_graph_id", kept.number)
        binding = self.session.io_binding()
        for name, value in kept.inputs.items():
            binding.bind_ortvalue_input(name, value)
        assert kept.output is not None
        binding.bind_ortvalue_output(self.signature.outputs[0], kept.output)
        self.session.run_with_iobinding(binding, options)
        # copied out before the next run of this shape writes over it
        return onnxruntime.OrtValue.ortvalue_from_numpy(kept.output.numpy(), self._output_device)


def _array(value: Tensor) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else value.numpy()


def _engine_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "pfm" / "tensorrt"


def _has_nvidia_gpu() -> bool:
    if os.name == "nt":
        return ctypes.util.find_library("nvcuda") is not None
    return any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg"))
