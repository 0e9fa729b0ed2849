"""The most arithmetic a second that a device does: the best rate of square matrix products.

In torch, and on a CPU in ONNX Runtime too, whose products can be twice as fast; the faster of the two counts.

It is measured, not read from a data sheet, with as many threads as what is compared with it.
"""

import time
from collections.abc import Callable, Sequence

import torch

from pfm_bench.measuring.runtime_product import PRECISIONS, product_of_runtime

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
    if device.type != "cpu" or precision not in PRECISIONS:
        return found
    threads = torch.get_num_threads()
    ours = product_ceiling(device, lambda size: product_of_runtime(precision, size, threads), sizes=INT8_SIZES)
    return max(found or 0.0, ours)


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
