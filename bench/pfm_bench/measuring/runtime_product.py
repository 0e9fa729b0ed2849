"""Products of square matrices in ONNX Runtime, to measure how fast a CPU can be."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime

# precision -> the operator of a product, the type of what goes in, and of what comes out
PRECISIONS = {
    "fp32": ("MatMul", np.float32, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT),
    "int8": ("MatMulInteger", np.uint8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32),
}


def product_of_runtime(precision: str, size: int, threads: int) -> Callable[[], object]:
    """The product of two squares of a side in ONNX Runtime; the second is a weight, as in a model."""
    operator, dtype, takes, gives = PRECISIONS[precision]
    chance = np.random.default_rng(0)
    values = chance.integers(0, 127, (size, size)) if precision == "int8" else chance.standard_normal((size, size))
    weight = values.astype(np.int8 if precision == "int8" else dtype)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["a", "b"], ["c"])],
        "product",
        [onnx.helper.make_tensor_value_info("a", takes, [size, size])],
        [onnx.helper.make_tensor_value_info("c", gives, [size, size])],
        [onnx.numpy_helper.from_array(weight, "b")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": values.astype(dtype)}
    session.run(None, feed)
    return lambda: session.run(None, feed)
