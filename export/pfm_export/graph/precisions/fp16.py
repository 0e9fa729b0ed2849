"""float16: weights and arithmetic in half precision, for GPUs.

The operators of each block are fused into ONNX Runtime's own (see `pfm_export.graph.fusion`). ONNX Runtime's CPU
provider has few kernels for half precision and casts around the others.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# these parts of onnxruntime have no types

from __future__ import annotations

from typing import TYPE_CHECKING

from pfm_export.graph.precisions.base import Precision, quiet

if TYPE_CHECKING:
    import onnx


class Fp16(Precision):
    """Everything between the inputs and the outputs in float16."""

    name = "fp16"
    tolerance = 1e-2

    def convert(self, proto: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        from pfm_export.graph.fusion import fuse

        fused = proto if portable else fuse(proto)
        with quiet():  # it says which constants it brings into half precision's range
            half = OnnxModel(convert_float_to_float16(fused, keep_io_types=True, max_finite_val=6e4))
            half.topological_sort()  # the casts it adds stand behind what needs them
        return half.model
