"""Operators of a transformer block put together into ONNX Runtime's own, which its CUDA provider has kernels for.

onnxscript's rewriter finds them in the eager export: attention with its projections, addition with normalisation,
bias with GELU. What comes out is for ONNX Runtime alone: TensorRT and others do not know `com.microsoft`.
"""

# pyright: reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# onnxscript has no types

import numpy as np
import onnx
from onnx import numpy_helper

DOMAIN = "com.microsoft"


def fuse(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with fewer operators; names, inputs and outputs stay."""
    import onnx_ir
    from onnxscript.rewriter.ort_fusions import optimize_for_ort

    fused = onnx_ir.to_proto(optimize_for_ort(onnx_ir.from_proto(proto))[0])
    _join_weights(fused)
    return fused


def fuse_attention(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function with one operator for scores, softmax and values of each block; its projections stay apart."""
    import onnx_ir
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.ort_fusions.mha import fuse_mha1, fuse_mha2
    from onnxscript.rewriter.ort_fusions.sdpa import fuse_sdpa

    model = onnx_ir.from_proto(proto)
    fuse_sdpa(model, apply_shape_inference=True)
    fuse_mha1(model)
    fuse_mha2(model)
    optimize(model)  # which takes apart what was found and not used
    return onnx_ir.to_proto(model)


def _join_weights(proto: onnx.ModelProto) -> None:
    """Do now what ONNX Runtime would do at each load: weights of query, key and value into one, in place."""
    graph = proto.graph
    weights = {initializer.name: initializer for initializer in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Concat" and all(name in weights for name in node.input):
            (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
            parts = [numpy_helper.to_array(weights[name]) for name in node.input]
            graph.initializer.append(numpy_helper.from_array(np.concatenate(parts, axis), node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in graph.node for name in node.input}
    left = [initializer for initializer in graph.initializer if initializer.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
