"""What can be timed, one file a runtime, each target declared by a line here; and what is built for it to run."""

from pfm_bench.targets.plan import TARGETS, Plan, Target, TargetKind

__all__ = ["TARGETS", "Plan", "Target", "TargetKind"]

TARGETS.declare("torch", "pfm_bench.targets.torch_model:EAGER")
TARGETS.declare("torch-bf16", "pfm_bench.targets.torch_model:EAGER_BF16")
TARGETS.declare("torch.compile", "pfm_bench.targets.torch_model:COMPILED")
TARGETS.declare("torch-bf16.compile", "pfm_bench.targets.torch_model:COMPILED_BF16")
TARGETS.declare("ort-cpu", "pfm_bench.targets.onnx_runtime:ON_CPU")
TARGETS.declare("openvino", "pfm_bench.targets.open_vino:FP32")
TARGETS.declare("openvino-bf16", "pfm_bench.targets.open_vino:BF16")
TARGETS.declare("ort-cuda", "pfm_bench.targets.onnx_runtime:ON_CUDA")
TARGETS.declare("ort-cuda-graphs", "pfm_bench.targets.onnx_runtime:WITH_GRAPHS")
TARGETS.declare("ort-tensorrt", "pfm_bench.targets.onnx_runtime:ON_TENSORRT")
