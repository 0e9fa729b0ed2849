"""How much arithmetic a forward pass is, and what share of the machine's matrix-product rate it reaches.

The ceiling is measured, not read from a data sheet: the best rate of square matrix products in torch
on the same device, with as many threads. The share is of the ceiling in the target's own precision.

Letters: B batch, K active prompts, m tokens per prompt, D hidden size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pfm.backbones.spec import BackboneSpec
from pfm.model.flops import step_flops
from pfm_bench.latency import matmul_ceiling, product_ceiling

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
INT8_SIZES = (1024, 2048, 4096)


def forward_gflop(manifest: Mapping[str, Any], num_prompts: int) -> float:
    """10⁹ floating-point operations of one image through a bundle's model, its last block cut to what is read.

    A multiply-add counts as two; an int8 product counts like one in floating point.
    """
    spec = BackboneSpec(manifest["backbone"]["model_name"], manifest["backbone"]["config"])
    tokens = num_prompts * manifest["prompt_tokens"]
    is_cls = manifest["readout"] == "cls"
    flops = step_flops(
        spec,
        [tokens],
        num_classes=num_prompts if is_cls else tokens,  # rows of the classifier, or scores of the prompt tokens
        rank=0,
        prompt_layer=manifest.get("prompt_layer", 0),
        backward=False,
        readout_tokens=1 if is_cls else tokens,
    )
    return flops / 1e9


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
        return matmul_ceiling(device, DTYPES[precision])
    return _int8_ceiling(device) if precision == "int8" else None


def _int8_ceiling(device: torch.device) -> float | None:
    """The same for int8 products with int32 sums; None where this torch has none."""

    def product(size: int) -> Callable[[], object]:
        square = torch.randint(-127, 127, (size, size), dtype=torch.int8, device=device)
        return lambda: torch._int_mm(square, square)  # type: ignore[attr-defined]  # torch has no public name for it

    try:
        return product_ceiling(device, product, sizes=INT8_SIZES)
    except (RuntimeError, NotImplementedError):
        return None


def roofline(
    gflop: float, latency_ms: float, ceiling: float | None, *, cpu_ms: float | None = None, threads: int = 1
) -> dict[str, float | None]:
    """Rate of a call, and its share of the ceiling.

    Args:
        gflop: of the whole call.
        ceiling: 10⁹ operations a second; None where it was not measured.
        cpu_ms: CPU time of the call, all threads together. Where others load the machine, the share by
            CPU time is nearer the truth: what they take away is not in it.
    """
    rate = 1000 * gflop / latency_ms
    by_cpu = None if not cpu_ms else 1000 * gflop * threads / cpu_ms
    return {
        "gflop_per_s": rate,
        "share_of_ceiling": None if ceiling is None else rate / ceiling,
        "share_of_ceiling_by_cpu": None if ceiling is None or by_cpu is None else by_cpu / ceiling,
    }
