"""int8: dynamic quantisation of the matrix products with weights, a scale per output channel, for CPUs.

The patch embedding is among them. Attention's own products, one operator for each block, and the readout stay float32.
"""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
# these parts of onnxruntime have no types

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pfm_export.graph.precisions.base import Precision, drop_info_of_initializers, quiet

if TYPE_CHECKING:
    import onnx


class Int8(Precision):
    """Weights in int8, activations quantised as they come."""

    name = "int8"
    tolerance = 0.2
    is_for_cpus = True

    def convert(self, proto: onnx.ModelProto, *, portable: bool = False) -> onnx.ModelProto:
        import onnx
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from pfm_export.graph.fusion import fuse_attention

        proto = proto if portable else fuse_attention(proto)
        embed_by_product(proto)
        drop_info_of_initializers(proto)
        shapes = {initializer.name: list(initializer.dims) for initializer in proto.graph.initializer}
        # a product with one column is the readout: nothing to gain, and its error is the score's
        readout = [
            node.name
            for node in proto.graph.node
            if node.op_type in ("MatMul", "Gemm") and 1 in shapes.get(node.input[1], [])
        ]
        with tempfile.TemporaryDirectory() as folder, quiet():
            target = Path(folder) / "model.onnx"
            quantize_dynamic(
                proto,
                target,
                op_types_to_quantize=["MatMul", "Gemm"],
                nodes_to_exclude=readout,
                weight_type=QuantType.QInt8,
                per_channel=True,
                extra_options={"MatMulConstBOnly": True},
            )
            return onnx.load(target)


def embed_by_product(proto: onnx.ModelProto) -> None:
    """Patches (B, C, S, S) -> (B, N, C·P·P) times the kernels, in place of a convolution by steps of its own size P.

    Letters: B batch, C channels, S side of the image, P of a patch, N = (S / P)² patches, D hidden size. A convolution
    whose patches overlap stays as it is.
    """
    import numpy as np
    from onnx import helper, numpy_helper

    graph = proto.graph
    nodes = list(graph.node)
    place = next((index for index, node in enumerate(nodes) if node.op_type == "Conv"), None)
    if place is None or [node.op_type for node in nodes[place : place + 3]] != ["Conv", "Reshape", "Transpose"]:
        return
    conv, _, last = nodes[place : place + 3]
    kernels = next(entry for entry in graph.initializer if entry.name == conv.input[1])
    width, channels, height, side = kernels.dims
    settings = {attribute.name: list(attribute.ints) for attribute in conv.attribute if attribute.ints}
    source = next((entry for entry in graph.input if entry.name == conv.input[0]), None)
    sizes = [] if source is None else [dim.dim_value for dim in source.type.tensor_type.shape.dim[1:]]
    fits = sizes[1:2] == sizes[2:] and sizes[:1] == [channels] and sizes[1] % side == 0
    if not fits or height != side or settings.get("strides") != [side, side] or any(settings.get("pads", [])):
        return
    across = sizes[1] // side
    constants = {
        "patches_grid": np.array([0, channels, across, side, across, side], np.int64),
        "patches_rows": np.array([0, across * across, channels * side * side], np.int64),
        "patches_weight": np.ascontiguousarray(numpy_helper.to_array(kernels).reshape(width, -1).T),
    }
    has_bias = len(conv.input) > 2
    product = "patches_product" if has_bias else last.output[0]
    new = [
        helper.make_node("Reshape", [conv.input[0], "patches_grid"], ["patches_in_grid"], name="patches_in_grid"),
        helper.make_node(
            "Transpose", ["patches_in_grid"], ["patches_in_order"], name="patches_in_order", perm=[0, 2, 4, 1, 3, 5]
        ),  # (B, S/P, S/P, C, P, P)
        helper.make_node("Reshape", ["patches_in_order", "patches_rows"], ["patches"], name="patches"),  # (B, N, C·P·P)
        helper.make_node("MatMul", ["patches", "patches_weight"], [product], name="patches_product"),  # (B, N, D)
    ]
    if has_bias:
        new.append(helper.make_node("Add", [product, conv.input[2]], [last.output[0]], name="patches_bias"))
    del graph.node[:]
    graph.node.extend([*nodes[:place], *new, *nodes[place + 3 :]])
    graph.initializer.remove(kernels)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
