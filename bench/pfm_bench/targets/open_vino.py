"""A bundle's own graph in OpenVINO, which others pick for Intel and AMD processors: `pip install pfm[openvino]`.

The shapes are made fixed before it is compiled, as is advised for latency, and the hint for one request at a time is
given. `openvino-bf16` lets it compute float32 graphs in bfloat16.
"""

from dataclasses import dataclass

import numpy as np

from pfm.errors import DeviceError
from pfm_bench.targets.plan import Call, Plan, Target
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.devices import HINTS
from pfm_export.serving.open_vino import compile_graph, require_openvino


@dataclass(frozen=True)
class OpenVino:
    """OpenVINO on the CPU, computing in float32 or bfloat16."""

    hint: str
    reads_bundle: bool = True

    def check(self, device: str) -> None:
        if device == "cuda":
            raise DeviceError("--device cuda was given, and OpenVINO runs on the CPU")
        require_openvino()

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
        self.bundle = bundle
        self.graph = bundle.model_bytes()
        self.hint = hint
        self.threads = threads
        (self.output,) = bundle.stated.signatures.head.outputs

    def prepare(self, batch_size: int, num_prompts: int) -> Call:
        rows, kind = self.bundle.rows(range(num_prompts)), self.bundle.input
        feed = {**kind.feed(kind.random(batch_size, np.random.default_rng(0))), **rows.feed()}
        shapes = {name: array.shape for name, array in feed.items()}
        compiled, types = compile_graph(self.graph, hint=self.hint, threads=self.threads, shapes=shapes)
        arrays = {
            name: np.ascontiguousarray(array.astype(types[name], copy=False))
            for name, array in feed.items()
            if name in types
        }
        request, output = compiled.create_infer_request(), compiled.output(self.output)

        def call() -> list[np.ndarray]:
            return [request.infer(arrays, share_inputs=True)[output]]

        return call


FP32, BF16 = (OpenVino(hint) for hint in HINTS.values())
