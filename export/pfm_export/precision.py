"""A float32 graph in another precision; its inputs and outputs stay float32.

- fp16: weights and arithmetic in half precision, for GPUs, the operators of each block fused into
  ONNX Runtime's own (see `pfm_export.fusion`). ONNX Runtime's CPU provider has few kernels for half
  precision and casts around the others.
- bf16: weights are *stored* in bfloat16, half the bytes, and cast to float32 when the graph is
  loaded; the arithmetic is float32, since ONNX Runtime's CPU provider multiplies no bfloat16.
- int8: dynamic quantisation of the matrix products with weights, a scale per output channel; the
  products of attention, the patch embedding and the readout stay float32.
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

from pfm_export.fusion import fuse

SMALLEST_STORED = 256  # values; below that a cast costs more than the bytes it saves


def in_precision(proto: onnx.ModelProto, precision: str, *, portable: bool = False) -> onnx.ModelProto:
    """The graph in "fp32", "fp16", "bf16" or "int8".

    Args:
        portable: leave the operators of an fp16 graph as they are; else they are fused for ONNX Runtime.
    """
    if precision == "fp16" and not portable:
        proto = fuse(proto)
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
