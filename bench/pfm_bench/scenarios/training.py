"""Our training step in several variants beside the plain one, interleaved: `pfm bench train`.

Weights, images and labels are random, since none of them changes how long a step takes.
"""

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch

from pfm.model.flops import StepWork, step_flops
from pfm.runlog import progress
from pfm.storage import Json
from pfm_bench.measuring.ceilings import matmul_ceiling
from pfm_bench.measuring.memory import gpu_peak_mib, peak_in_child
from pfm_bench.measuring.rounds import measure
from pfm_bench.reports.variants import VariantsReport, variants_report
from pfm_bench.scenarios.disk_use import DiskUse, disk_per_epoch
from pfm_bench.scenarios.prompt_building import PromptBuilding, bench_prompt_building
from pfm_bench.scenarios.training_steps import OurStep, PlainStep, list_training_variants, take_each_kind_of_step
from pfm_bench.targets.workbench import (
    HEAVY,
    LORA,
    PLAIN,
    WARMUP_ROUNDS,
    Variant,
    Workbench,
    dtype_name,
)

PLAIN_BF16 = "plain bf16"
Ceilings = dict[torch.dtype, float]  # 10⁹ operations a second


@dataclass(frozen=True, kw_only=True)
class StepRates:
    """What a step computes.

    Attributes:
        gflop_per_image: 10⁹ operations, mean over the rounds, by our count.
        gflop_per_s: median over the rounds.
        share_of_ceiling: of the fastest matrix product in its precision.
    """

    gflop_per_image: float
    gflop_per_s: float
    share_of_ceiling: float


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """More about a variant of the step.

    Attributes:
        variant: None of the plain step.
        peak_memory_mib: None where it was not measured.
        last_loss: of the last step.
    """

    variant: Variant | None
    rates: StepRates
    peak_memory_mib: float | None
    last_loss: float

    def to_dict(self) -> Json:
        return {
            **({} if self.variant is None else self.variant.describe()),
            **asdict(self.rates),
            "peak_memory_mib": self.peak_memory_mib,
            "last_loss": self.last_loss,
        }


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """Everything that was measured.

    Attributes:
        ceilings: of matrix products, 10⁹ operations a second, by the name of the dtype.
        disk: of one epoch.
    """

    steps: VariantsReport
    ceilings: Mapping[str, float]
    prompt_building: tuple[PromptBuilding, ...]
    disk: DiskUse

    def to_dict(self) -> Json:
        settings = {**self.steps.header.settings, "matmul_ceiling_gflop_per_s": self.ceilings}
        steps = replace(self.steps, header=replace(self.steps.header, settings=settings))
        return {
            **steps.to_dict(),
            "prompt_building": [entry.to_dict() for entry in self.prompt_building],
            "disk": self.disk.to_dict(),
        }

    def describe(self) -> str:
        """Prompt building, disk and ceilings, in lines."""
        shown = ", ".join(f"{value:.0f} GFLOP/s in {name}" for name, value in self.ceilings.items())
        lines = [*(entry.describe() for entry in self.prompt_building), self.disk.describe()]
        return "\n".join([*lines, f"the most that a matrix product reached here: {shown}"])


def bench_training(bench: Workbench, *, compiled: bool = False) -> TrainingReport:
    """Measure every variant.

    Args:
        compiled: measure the compiled variants too.
    """
    config = bench.config
    variants = {variant.name: variant for variant in list_training_variants(bench.spec, compiled=compiled)}
    if compiled:
        _allow_graphs(len(variants) * (config.num_classes + 1))
    before = _ceilings(bench.device)  # first, since it makes what the libraries allocate once
    steps, peaks = _build_steps(bench, variants)
    with progress(config.rounds, "rounds", unit="round") as bar:
        samples = measure(
            steps, rounds=config.rounds, warmup_rounds=WARMUP_ROUNDS, budget_s=config.seconds, on_round=bar.update
        )
    ceilings = {dtype: max(value, before[dtype]) for dtype, value in _ceilings(bench.device).items()}
    plain, ours = steps[PLAIN], steps[Variant().name]
    assert isinstance(plain, PlainStep)
    assert isinstance(ours, OurStep)
    drawn = plain.drawn[WARMUP_ROUNDS : WARMUP_ROUNDS + samples.rounds]
    facts = {
        name: StepFacts(
            variant=variants.get(name),
            rates=_rates(bench, samples.latency_ms[name], variants.get(name), drawn, ceilings[_dtype(name, variants)]),
            peak_memory_mib=peaks.get(name),
            last_loss=float("nan") if step.last_loss is None else float(step.last_loss),
        )
        for name, step in steps.items()
    }
    return TrainingReport(
        steps=variants_report(
            samples,
            reference=PLAIN,
            images_per_call=config.batch_size,
            settings={**bench.settings(), "prompts_by_round": drawn},
            facts=facts,
        ),
        ceilings={dtype_name(dtype): value for dtype, value in ceilings.items()},
        prompt_building=bench_prompt_building(bench),
        disk=disk_per_epoch(bench, ours, plain),
    )


def _build_steps(
    bench: Workbench, variants: Mapping[str, Variant]
) -> tuple[dict[str, PlainStep | OurStep], dict[str, float]]:
    """Every step, and the peak memory in MiB of those for which it was measured."""
    builders = {name: functools.partial(OurStep, bench, variant) for name, variant in variants.items()}
    steps: dict[str, PlainStep | OurStep] = {}
    peaks: dict[str, float] = {}
    plain = {PLAIN: functools.partial(PlainStep, bench)}
    if bench.device.type == "cuda":  # where nobody would leave it in float32
        plain[PLAIN_BF16] = functools.partial(PlainStep, bench, is_bf16=True)
    for name, build in {**plain, **builders}.items():
        base = torch.cuda.memory_allocated() if bench.device.type == "cuda" else 0
        steps[name] = build()
        if bench.device.type == "cuda":
            every_kind = functools.partial(take_each_kind_of_step, bench, steps[name])
            peaks[name] = gpu_peak_mib(bench.device, every_kind, base)
        elif bench.config.memory:
            peaks[name] = peak_in_child(build, calls=3, preload=(__name__, *HEAVY))
        if name in variants and variants[name].is_compiled:
            take_each_kind_of_step(bench, steps[name])
    return steps, peaks


def _allow_graphs(count: int) -> None:
    """Past its limit torch.compile runs a model eagerly; it counts the graphs of all models of a class together."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, count)


def _ceilings(device: torch.device) -> Ceilings:
    return {dtype: matmul_ceiling(device, dtype) for dtype in (torch.float32, torch.bfloat16)}


def _dtype(name: str, variants: Mapping[str, Variant]) -> torch.dtype:
    """Of the products of a variant's trunk."""
    if name in variants:
        return variants[name].frozen
    return torch.bfloat16 if name == PLAIN_BF16 else torch.float32


def _rates(
    bench: Workbench,
    latency_ms: list[float],
    variant: Variant | None,
    drawn: list[tuple[int, int]],
    ceiling: float,
) -> StepRates:
    """Operations of each round by our count, over its time."""
    layer, is_cached = (0, False) if variant is None else (variant.prompt_layer, variant.is_cached)
    works = [
        StepWork(
            prompts=pair,
            num_scores=bench.config.num_classes,
            rank=LORA.lora_r,
            prompt_layer=layer,
            is_cached=is_cached,
            is_plain=variant is None,
        )
        for pair in drawn
    ]
    gflop = torch.tensor([step_flops(bench.spec, work) for work in works]) / 1e9
    rate = gflop * bench.config.batch_size * 1000 / torch.tensor(latency_ms)
    return StepRates(
        gflop_per_image=float(gflop.mean()),
        gflop_per_s=float(rate.quantile(0.5)),
        share_of_ceiling=float(rate.quantile(0.5)) / ceiling,
    )
