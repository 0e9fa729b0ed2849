"""OpenVINO: a bundle's own graphs on the CPU, `pip install 'pfm[openvino]'`, called as those in ONNX Runtime are.

`openvino` computes in float32, `openvino-bf16` lets it compute float32 graphs in bfloat16, where the processor can.
Sizes that are left open stay so: one compiled graph serves any batch and any number of prompts.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# openvino is an extra

import importlib.util
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pfm.errors import BundleError, DataError, DeviceError
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.devices import HINTS
from pfm_export.serving.inspection import check_graph
from pfm_export.serving.runtime import HostTensor, Tensor
from pfm_export.serving.signature import Signature

_TELEMETRY = "openvino_telemetry"
_TYPES: Mapping[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "u8": np.uint8,
    "i32": np.int32,
    "i64": np.int64,
}


def require_openvino() -> None:
    """
    Raises:
        DeviceError: it is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise DeviceError("OpenVINO is not installed; pip install 'pfm[openvino]'")


def _openvino() -> Any:
    """The library, without the message that its import sends to its makers.

    It sends that from a fork of the process, which may hang for ever beside the threads that are there, and then holds
    whatever the process had open, such as the port of a server that ended long ago.
    """
    modules: dict[str, Any] = sys.modules
    is_new = _TELEMETRY not in modules
    if is_new:
        modules[_TELEMETRY] = None  # cannot be imported: a stub of theirs takes its place
    try:
        import openvino
    finally:
        if is_new:
            modules.pop(_TELEMETRY, None)
    return openvino


def compile_graph(
    content: bytes, *, hint: str, threads: int, shapes: Mapping[str, Sequence[int]] | None = None
) -> tuple[Any, Mapping[str, type[np.generic]]]:
    """A graph compiled for the CPU, and the types of its inputs by their names.

    Args:
        hint: "f32" or "bf16".
        threads: of one pass; 0 leaves the choice to OpenVINO.
        shapes: of inputs, which are made fixed; None leaves open what is open.

    Raises:
        BundleError: OpenVINO cannot run it.
    """
    openvino = _openvino()
    settings: Mapping[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1,
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }  # fmt: skip
    core = openvino.Core()
    try:
        model = core.read_model(content, b"")
        inputs = {name: entry for entry in model.inputs for name in entry.get_names()}
        if shapes is not None:
            model.reshape({inputs[name]: list(shape) for name, shape in shapes.items() if name in inputs})
        types = {name: _TYPES[entry.get_element_type().get_type_name()] for name, entry in inputs.items()}
        return core.compile_model(model, "CPU", settings), types
    except (RuntimeError, KeyError) as error:
        raise BundleError(
            f"OpenVINO cannot run the graph; use --device cpu: {' '.join(str(error).split())[-200:]}"
        ) from error


class OpenVinoGraph:
    """A graph of a bundle with one output; several threads may run it.

    Raises:
        DeviceError: OpenVINO is not installed, or not for this bundle.
        BundleError: it cannot run the graph.
    """

    def __init__(self, bundle: Bundle, name: str, *, device: str, threads: int) -> None:
        require_openvino()
        if bundle.exact is not None:
            raise DeviceError(
                "the integers of an exact readout have to be exact, which was not checked in OpenVINO; use --device cpu"
            )
        content = bundle.model_bytes(name)
        check_graph(content, name)
        self._compiled, self._types = compile_graph(content, hint=HINTS[device], threads=threads)
        self.signature = Signature(
            tuple(next(iter(entry.get_names())) for entry in self._compiled.inputs),
            tuple(next(iter(entry.get_names())) for entry in self._compiled.outputs),
        )
        hint = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.provider = f"OpenVINO {hint}"
        self._free: list[Any] = []  # requests that nobody uses
        self._lock = threading.Lock()

    def put(self, array: np.ndarray) -> HostTensor:
        """The array where the graph takes it."""
        return HostTensor(np.ascontiguousarray(array))

    def numbers(self, feed: Mapping[str, Tensor]) -> np.ndarray:
        """The output as an array; else as `run`."""
        return self.run(feed).numpy()

    def run(self, feed: Mapping[str, Tensor]) -> HostTensor:
        """The output, on the CPU.

        Raises:
            DataError: an input of another shape or type.
        """
        arrays = {name: value if isinstance(value, np.ndarray) else value.numpy() for name, value in feed.items()}
        for name, array in arrays.items():
            if array.dtype != self._types[name]:
                raise DataError(f"the input does not fit the graph: {name} is {array.dtype}, not {self._types[name]}")
        with self._lock:
            request = self._free.pop() if self._free else self._compiled.create_infer_request()
        try:
            found = request.infer({name: np.ascontiguousarray(array) for name, array in arrays.items()})
            output: np.ndarray = np.array(found[self._compiled.outputs[0]])
        except RuntimeError as error:
            raise DataError(f"the input does not fit the graph: {' '.join(str(error).split())[-200:]}") from error
        with self._lock:
            self._free.append(request)
        return HostTensor(output)
