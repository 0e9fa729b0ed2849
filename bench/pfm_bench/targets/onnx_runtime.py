"""A bundle in ONNX Runtime: on the CPU, on CUDA, or through TensorRT."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from pfm.errors import DeviceError
from pfm_bench.targets.plan import Call, Plan, Target
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runtime import CPU, CUDA, Graph, choose_providers, load_graph

_NUMPY_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime on a device: "cpu", "cuda" or "tensorrt".

    Attributes:
        graphs: record the kernels of each shape once and replay them; with "cuda".
    """

    device: str
    graphs: bool = False
    reads_bundle: bool = True

    def check(self, device: str) -> None:
        if self.device != "cpu" and (device == "cpu" or not torch.cuda.is_available()):
            raise DeviceError(
                "--device cpu was given" if device == "cpu" else "this machine has no GPU that torch can use"
            )

    def is_default(self, device: str) -> bool:
        if self.device == "cpu":
            return device != "cuda"
        has_gpu = torch.cuda.is_available() and device != "cpu"
        return self.device == "cuda" and not self.graphs and has_gpu and choose_providers("auto")[0] == CUDA

    def precision(self, of_bundle: str) -> str:
        return of_bundle

    def arithmetic(self, precision: str) -> str:
        return "fp32" if precision == "bf16" else precision  # a bundle in bf16 is only stored so

    def build(self, plan: Plan) -> Target:
        bundle = Bundle.open(plan.bundle)
        return OnnxRuntimeTarget(bundle, device=self.device, threads=plan.threads, graphs=self.graphs)


class OnnxRuntimeTarget:
    """Model input and bank rows in, logits out.

    On a GPU the inputs are there before the call, as torch's do, and the logits come back to the CPU. With CUDA graphs
    a call has the copy of its inputs too, to where the recorded kernels read them.
    """

    def __init__(self, bundle: Bundle, *, device: str, threads: int, graphs: bool = False) -> None:
        self.bundle = bundle
        self.graphs = graphs
        # threads that spin after a call would slow the runtime that is timed next
        self.runtime = load_graph(bundle, device=device, threads=threads, spin=False, cuda_graphs=graphs)
        self.where = self.runtime.get_providers()[0]
        self.recording = Graph(self.runtime, captures=graphs)
        (self.output,) = bundle.stated.signatures.head.outputs

    def prepare(self, batch_size: int, num_prompts: int) -> Call:
        rows, kind = self.bundle.rows(range(num_prompts)), self.bundle.input
        feed = {**kind.feed(kind.random(batch_size, np.random.default_rng(0))), **rows.feed()}
        types = {node.name: _NUMPY_TYPES[node.type] for node in self.runtime.get_inputs()}
        feed = {name: array.astype(types[name], copy=False) for name, array in feed.items()}
        if self.where == CPU:
            return lambda: self.runtime.run([self.output], feed)
        if self.graphs:
            return functools.partial(self.recording.numbers, feed)
        return self._bind(feed)

    def _bind(self, feed: dict[str, np.ndarray]) -> Call:
        binding = self.runtime.io_binding()
        kept = []  # a binding holds addresses only
        for name, array in feed.items():
            if array.size == 0:
                binding.bind_cpu_input(name, array)
                continue
            tensor = torch.from_numpy(array).cuda()
            kept.append(tensor)
            binding.bind_input(name, "cuda", 0, array.dtype.type, list(array.shape), tensor.data_ptr())
        binding.bind_output(self.output, "cpu")
        torch.cuda.synchronize()

        def call() -> list[torch.Tensor]:
            self.runtime.run_with_iobinding(binding)
            return kept

        return call


ON_CPU, ON_CUDA, ON_TENSORRT = OnnxRuntime("cpu"), OnnxRuntime("cuda"), OnnxRuntime("tensorrt")
WITH_GRAPHS = OnnxRuntime("cuda", graphs=True)
