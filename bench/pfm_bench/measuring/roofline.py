"""How much arithmetic a forward pass is, and what share of the machine's matrix-product rate it reaches.

The share is of the ceiling (`pfm_bench.measuring.ceilings`) in the target's own precision.

Letters: B batch, K active prompts, m tokens per prompt, D hidden size.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pfm.backbones.backbone import SUMMARY
from pfm.backbones.spec import BackboneSpec
from pfm.model.flops import StepWork, step_flops
from pfm.model.readouts import READOUTS


def forward_gflop(manifest: Mapping[str, Any], num_prompts: int) -> float:
    """10⁹ floating-point operations of one image through a bundle's model, its last block cut to what is read.

    A multiply-add counts as two; an int8 product counts like one in floating point.
    """
    spec = BackboneSpec(manifest["backbone"]["model_name"], manifest["backbone"]["config"])
    tokens = num_prompts * manifest["prompt_tokens"]
    readout = READOUTS.get(manifest["readout"])
    own = spec.num_special + spec.num_patches
    work = StepWork(
        prompts=(tokens,),
        num_scores=num_prompts if readout.class_rows else 1,  # rows of the classes, or one that all share
        rank=0,
        prompt_layer=manifest.get("prompt_layer", 0),
        has_backward=False,
        reads_prompts=readout.reads(own) != SUMMARY,
    )
    return step_flops(spec, work) / 1e9


@dataclass(frozen=True, kw_only=True)
class Roofline:
    """How fast a call computes.

    Attributes:
        gflop_per_s: 10⁹ floating-point operations a second.
        share_of_ceiling: of the fastest matrix product; None where that was not measured.
        share_of_ceiling_by_cpu: the same with CPU time instead of the clock's. Where others load the machine it is
            nearer the truth: what they take away is not in it.
    """

    gflop_per_s: float
    share_of_ceiling: float | None
    share_of_ceiling_by_cpu: float | None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def roofline(
    gflop: float, latency_ms: float, ceiling: float | None, *, cpu_ms: float | None = None, threads: int = 1
) -> Roofline:
    """Rate of a call, and its share of the ceiling.

    Args:
        gflop: of the whole call.
        ceiling: 10⁹ operations a second; None where it was not measured.
        cpu_ms: CPU time of the call, all threads together.
    """
    rate = 1000 * gflop / latency_ms
    by_cpu = None if not cpu_ms else 1000 * gflop * threads / cpu_ms
    return Roofline(
        gflop_per_s=rate,
        share_of_ceiling=None if ceiling is None else rate / ceiling,
        share_of_ceiling_by_cpu=None if ceiling is None or by_cpu is None else by_cpu / ceiling,
    )
