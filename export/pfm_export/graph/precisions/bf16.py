"""bfloat16: weights are *stored* in it, half the bytes, and cast to float32 when the graph is loaded.

The arithmetic is float32, since ONNX Runtime's CPU provider multiplies no bfloat16.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch leaves the types of some of its own functions open

from __future__ import annotations

from typing import TYPE_CHECKING

from pfm_export.graph.precisions.base import Precision, drop_info_of_initializers

if TYPE_CHECKING:
    import onnx

SMALLEST_STORED = 256  # values; below that a cast costs more than the bytes it saves


class Bf16(Precision):
    """A cast behind each weight of some size."""

    name = "bf16"
    tolerance = 5e-2

    def convert(self, proto: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
        import numpy as np
        import torch
        from onnx import TensorProto, helper, numpy_helper

        del portable  # it always is
        casts: list[onnx.NodeProto] = []
        for initializer in proto.graph.initializer:
            if initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims) < SMALLEST_STORED:
                continue
            name = initializer.name
            values = torch.from_numpy(numpy_helper.to_array(initializer).copy()).to(torch.bfloat16)
            stored = values.view(torch.int16).numpy().tobytes()  # numpy has no bfloat16
            shape = list(initializer.dims)
            initializer.CopyFrom(helper.make_tensor(f"{name}_bf16", TensorProto.BFLOAT16, shape, stored, raw=True))
            casts.append(helper.make_node("Cast", [f"{name}_bf16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
        drop_info_of_initializers(proto)
        behind = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*casts, *behind])
        return proto
