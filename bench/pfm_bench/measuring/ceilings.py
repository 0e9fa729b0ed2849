"""The most arithmetic a second that a device does: the best rate of square matrix products.

In torch, and on a CPU in ONNX Runtime too, whose products can be twice as fast; the faster of the two counts.

It is measured, not read from a data sheet, with as many threads as what is compared with it.
"""

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime
import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INT8_SIZES = (1024, 2048, 4096)


def matmul_ceiling(
    device: torch.device,
    dtype: torch.dtype,
    *,
    sizes: Sequence[int] = (512, 1024, 2048, 4096, 8192),
    repeats: int = 5,
    enough_s: float = 0.02,
) -> float:
    """The most floating-point operations a second, in units of 10⁹, that square matrix products reach here.

    Args:
        sizes: sides of the squares, ascending.
        enough_s: a product that takes this long fills the device; larger ones are not tried.
    """

    def product(size: int) -> Callable[[], object]:
        square = torch.randn(size, size, device=device).to(dtype)
        result = square @ square
        return lambda: torch.matmul(square, square, out=result)

    return product_ceiling(device, product, sizes=sizes, repeats=repeats, enough_s=enough_s)


def product_ceiling(
    device: torch.device,
    prepare: Callable[[int], Callable[[], object]],
    *,
    sizes: Sequence[int],
    repeats: int = 5,
    enough_s: float = 0.02,
) -> float:
    """As `matmul_ceiling`, for the product that `prepare` makes of a side."""
    flops_per_s = 0.0
    for size in sizes:
        call = prepare(size)
        best_s = float("inf")
        for _ in range(repeats):
            synchronise(device)
            before = time.perf_counter()
            call()
            synchronise(device)
            best_s = min(best_s, time.perf_counter() - before)
        flops_per_s = max(flops_per_s, 2 * size**3 / best_s)
        if best_s > enough_s:
            break
    return flops_per_s / 1e9


def measure_ceilings(places: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The ceiling of each (device, precision), 10⁹ operations a second, by `ceiling_key`; one that cannot be
    measured here is left out."""
    ceilings = {}
    for device, precision in dict.fromkeys(places):
        rate = _rate(torch.device(device), precision)
        if rate is not None:
            ceilings[ceiling_key(device, precision)] = rate
    return ceilings


def ceiling_key(device: str, precision: str) -> str:
    """`cpu fp32`, as it stands in the JSON."""
    return f"{device} {precision}"


def _rate(device: torch.device, precision: str) -> float | None:
    if precision in DTYPES:
        found = matmul_ceiling(device, DTYPES[precision])
    else:
        found = _int8_ceiling(device) if precision == "int8" else None
    if device.type != "cpu" or precision not in _OF_RUNTIME:
        return found
    prepare = functools.partial(_product_of_runtime, precision)
    return max(found or 0.0, product_ceiling(device, prepare, sizes=INT8_SIZES))


# precision -> the operator of a product, the type of what goes in, and of what comes out
_OF_RUNTIME = {
    "fp32": ("MatMul", np.float32, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT),
    "int8": ("MatMulInteger", np.uint8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32),
}


def _product_of_runtime(precision: str, size: int) -> Callable[[], object]:
    """The product of two squares in ONNX Runtime; the second is a weight, as in a model."""
    operator, dtype, takes, gives = _OF_RUNTIME[precision]
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
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"a": values.astype(dtype)}
    session.run(None, feed)
    return lambda: session.run(None, feed)


def _int8_ceiling(device: torch.device) -> float | None:
    """The same for int8 products with int32 sums; None where this torch has none."""

    def product(size: int) -> Callable[[], object]:
        square = torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device)
        return lambda: torch._int_mm(square, square)  # type: ignore[attr-defined]  # torch has no public name for it

    try:
        return product_ceiling(device, product, sizes=INT8_SIZES)
    except (RuntimeError, NotImplementedError):
        return None


def synchronise(device: torch.device) -> None:
    """Wait for everything that was started on a GPU; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
