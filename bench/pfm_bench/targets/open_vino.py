"""A bundle's own graph in OpenVINO, which others pick for Intel and AMD processors: `pip install pfm[openvino]`.

The shapes are made fixed before it is compiled, as is advised for latency, and the hint for one request at a time is
given. `openvino-bf16` lets it compute float32 graphs in bfloat16.
"""

# pyright: reportMissingImports=false, reportMissingTypeStubs=false
# openvino is an extra

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfm.errors import DeviceError
from pfm_bench.targets.plan import Call, Plan, Target
from pfm_export.serving.bundle import Bundle

_TYPES = {"f32": np.float32, "f16": np.float16, "u8": np.uint8, "i32": np.int32, "i64": np.int64}


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO on the CPU, computing in float32 or bfloat16."""

    hint: str
    reads_bundle: bool = True

    def check(self, device: str) -> None:
        if device == "cuda":
            raise DeviceError("--device cuda was given, and OpenVINO runs on the CPU")
        if importlib.util.find_spec("openvino") is None:
            raise DeviceError("OpenVINO is not installed; pip install 'pfm[openvino]'")

    def is_default(self, device: str) -> bool:
        del device
        return False

    def precision(self, of_bundle: str) -> str:
        return of_bundle

    def arithmetic(self, precision: str) -> str:
        return precision if precision == "int8" else {"f32": "fp32", "bf16": "bf16"}[self.hint]

    def build(self, plan: Plan) -> Target:
        return OpenVinoTarget(Bundle.open(plan.bundle), hint=self.hint, threads=plan.threads)


class OpenVinoTarget:
    """Model input and bank rows in, logits out; compiled once for each shape."""

    where = "CPU, OpenVINO"

    def __init__(self, bundle: Bundle, *, hint: str, threads: int) -> None:
        import openvino

        self.bundle = bundle
        self.core = openvino.Core()
        self.graph = bundle.model_bytes()
        self.settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
        }  # fmt: skip
        (self.output,) = bundle.stated.signatures.head.outputs

    def prepare(self, batch_size: int, num_prompts: int) -> Call:
        rows, kind = self.bundle.rows(range(num_prompts)), self.bundle.input
        feed = {**kind.feed(kind.random(batch_size, np.random.default_rng(0))), **rows.feed()}
        model = self.core.read_model(self.graph, b"")
        inputs = {name: entry for entry in model.inputs for name in entry.get_names()}
        model.reshape({inputs[name]: list(feed[name].shape) for name in feed if name in inputs})
        arrays = {
            name: np.ascontiguousarray(
                array.astype(_TYPES[inputs[name].get_element_type().get_type_name()], copy=False)
            )
            for name, array in feed.items()
            if name in inputs
        }
        compiled = self.core.compile_model(model, "CPU", self.settings)
        request, output = compiled.create_infer_request(), compiled.output(self.output)

        def call() -> list[np.ndarray]:
            return [request.infer(arrays, share_inputs=True)[output]]

        return call


FP32, BF16 = OpenVino("f32"), OpenVino("bf16")
