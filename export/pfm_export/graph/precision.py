"""A float32 graph in another precision; its inputs and outputs stay float32.

- fp16: weights and arithmetic in half precision, for GPUs, the operators of each block fused into
  ONNX Runtime's own (see `pfm_export.graph.fusion`). ONNX Runtime's CPU provider has few kernels for half
  precision and casts around the others.
- bf16: weights are *stored* in bfloat16, half the bytes, and cast to float32 when the graph is
  loaded; the arithmetic is float32, since ONNX Runtime's CPU provider multiplies no bfloat16.
- int8: dynamic quantisation of the matrix products with weights, the patch embedding among them, a
  scale per output channel; attention's own products, one operator for each block, and the readout stay
  float32.
"""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from pfm_export.graph.fusion import fuse, fuse_attention

SMALLEST_STORED = 256  # values; below that a cast costs more than the bytes it saves


def in_precision(proto: onnx.ModelProto, precision: str, *, portable: bool = False) -> onnx.ModelProto:
    """The graph in "fp32", "fp16", "bf16" or "int8".

    Args:
        portable: operators of the ONNX standard only; else fp16 and int8 have some of ONNX Runtime's own.
    """
    if not portable:
        proto = {"fp16": fuse, "int8": fuse_attention}.get(precision, lambda same: same)(proto)
    return {"fp32": lambda same: same, "fp16": _in_fp16, "bf16": _in_bf16, "int8": _in_int8}[precision](proto)


def _in_fp16(proto: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with _quiet():  # it says which constants it brings into half precision's range
        half = OnnxModel(convert_float_to_float16(proto, keep_io_types=True, max_finite_val=6e4))
        half.topological_sort()  # the casts it adds stand behind what needs them
    return half.model


def _in_bf16(proto: onnx.ModelProto) -> onnx.ModelProto:
    casts = []
    for initializer in proto.graph.initializer:
        if initializer.data_type != TensorProto.FLOAT or np.prod(initializer.dims) < SMALLEST_STORED:
            continue
        name = initializer.name
        values = torch.from_numpy(numpy_helper.to_array(initializer).copy()).to(torch.bfloat16)
        stored = values.view(torch.int16).numpy().tobytes()  # numpy has no bfloat16
        shape = list(initializer.dims)
        initializer.CopyFrom(helper.make_tensor(f"{name}_bf16", TensorProto.BFLOAT16, shape, stored, raw=True))
        casts.append(helper.make_node("Cast", [f"{name}_bf16"], [name], name=f"{name}_cast", to=TensorProto.FLOAT))
    _drop_info_of_initializers(proto)
    behind = list(proto.graph.node)
    del proto.graph.node[:]
    proto.graph.node.extend([*casts, *behind])
    return proto


def _in_int8(proto: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    _embed_by_product(proto)
    _drop_info_of_initializers(proto)
    shapes = {initializer.name: list(initializer.dims) for initializer in proto.graph.initializer}
    # a product with one column is the readout: nothing to gain, and its error is the score's
    readout = [
        node.name
        for node in proto.graph.node
        if node.op_type in ("MatMul", "Gemm") and 1 in shapes.get(node.input[1], [])
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
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


def _embed_by_product(proto: onnx.ModelProto) -> None:
    """Patches (B, C, S, S) -> (B, N, C·P·P) times the kernels, in place of a convolution by steps of its own size P.

    Letters: B batch, C channels, S side of the image, P of a patch, N = (S / P)² patches, D hidden size. A convolution
    whose patches overlap stays as it is.
    """
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


def _drop_info_of_initializers(proto: onnx.ModelProto) -> None:
    """Notes on values that name an initializer, which the quantiser takes for values that are computed."""
    names = {initializer.name for initializer in proto.graph.initializer}
    kept = [info for info in proto.graph.value_info if info.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The converters' remarks are for their developers."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
