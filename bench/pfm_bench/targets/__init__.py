"""What can be timed, one file a runtime, each target registered by a line here; and what is built for it to run."""

from pfm_bench.targets.onnx_runtime import OnnxRuntime
from pfm_bench.targets.plan import TARGETS, Plan, Target, TargetKind
from pfm_bench.targets.torch_model import TorchModel

TARGETS.register("torch", TorchModel())
TARGETS.register("torch-bf16", TorchModel(is_bf16=True))
TARGETS.register("torch.compile", TorchModel(is_compiled=True))
TARGETS.register("ort-cpu", OnnxRuntime("cpu"))
TARGETS.register("ort-cuda", OnnxRuntime("cuda"))
TARGETS.register("ort-tensorrt", OnnxRuntime("tensorrt"))

__all__ = ["TARGETS", "Plan", "Target", "TargetKind"]
