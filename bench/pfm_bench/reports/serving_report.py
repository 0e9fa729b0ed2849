"""What `pfm bench serve` found: each case, each target, each scenario; as JSON.

The document holds the raw samples; every figure in it is derived from them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pfm.storage import Json
from pfm_bench.measuring.roofline import Roofline, roofline
from pfm_bench.measuring.rounds import Samples
from pfm_bench.measuring.stats import Interval, Percentiles, Ratio, percentile_intervals
from pfm_bench.reports.header import Header

if TYPE_CHECKING:
    from pfm_bench.targets.random_bundle import ExportCost


@dataclass(frozen=True, order=True)
class Case:
    """One timed call."""

    batch_size: int
    num_prompts: int
    target: str
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a case computes, where that is known.

    Attributes:
        gflop_per_image: 10⁹ floating-point operations.
        ceiling: of its device and precision, 10⁹ operations a second.
        is_on_cpu: so that CPU time says something.
    """

    gflop_per_image: float
    ceiling: float | None
    is_on_cpu: bool = True


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The figures of a case, and the samples that they come from.

    Attributes:
        intervals: of the percentiles, by their names; milliseconds.
        images_per_s: at the median.
        cpu_p50_ms: None where CPU time was not measured, like all below that says so.
        gflop_per_image: 10⁹ operations; None where the work is not known, as is `roofline`.
        ratio_to_reference: on the clock ("wall") and in CPU time ("cpu"); None without the reference.
        latency_ms, cpu_ms: raw.
    """

    case: Case
    percentiles: Percentiles
    intervals: Mapping[str, Interval]
    images_per_s: float
    cpu_p50_ms: float | None
    gflop_per_image: float | None
    roofline: Roofline | None
    ratio_to_reference: Mapping[str, Ratio] | None
    latency_ms: list[float]
    cpu_ms: list[float] | None

    def to_dict(self) -> Json:
        known = {"cpu_p50_ms": self.cpu_p50_ms, "gflop_per_image": self.gflop_per_image}
        ratios = self.ratio_to_reference
        return {
            "target": self.case.target,
            "threads": self.case.threads,
            "batch_size": self.case.batch_size,
            "num_prompts": self.case.num_prompts,
            **self.percentiles.to_dict(),
            "intervals": {**self.intervals},
            "images_per_s": self.images_per_s,
            **{key: value for key, value in known.items() if value is not None},
            **({} if self.roofline is None else self.roofline.to_dict()),
            **({} if ratios is None else {"ratio_to_reference": {key: r.to_dict() for key, r in ratios.items()}}),
            "latency_ms": self.latency_ms,
            **({} if self.cpu_ms is None else {"cpu_ms": self.cpu_ms}),
        }


@dataclass(frozen=True, kw_only=True)
class TargetFacts:
    """How a target was loaded.

    Attributes:
        precision: of its weights.
        where: the device or execution provider that runs it.
        load_s, load_cpu_s: on the clock, and of CPU time.
        first_call_ms: with the largest batch and the most prompts, before any warm-up.
        peak_memory_mib: None where it was not measured.
        size_bytes: of its bundle; None where it reads none.
    """

    name: str
    threads: int
    precision: str
    where: str
    load_s: float
    load_cpu_s: float
    first_call_ms: float
    peak_memory_mib: float | None
    size_bytes: int | None

    @property
    def place(self) -> str:
        """`cpu` or `cuda`, from torch's device or ONNX Runtime's provider."""
        return "cpu" if self.where.lower().startswith("cpu") else "cuda"

    def to_dict(self) -> Json:
        return asdict(self)


class ScenarioFigures(Protocol):
    """What a scenario found of one target."""

    def to_dict(self) -> Json: ...

    def describe(self) -> str:
        """The figure that it is about, in a few words."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScenarioResult:
    """One scenario of one target.

    Attributes:
        num_prompts, batch_size: None where they are not one number.
    """

    scenario: str
    target: str
    figures: ScenarioFigures
    num_prompts: int | None = None
    batch_size: int | None = None
    threads: int = 1

    def to_dict(self) -> Json:
        known = {"num_prompts": self.num_prompts, "batch_size": self.batch_size}
        return {
            "threads": self.threads,
            "scenario": self.scenario,
            "target": self.target,
            **self.figures.to_dict(),
            **{key: value for key, value in known.items() if value is not None},
        }


@dataclass(frozen=True, kw_only=True)
class ServingReport:
    """Everything that was measured.

    Attributes:
        ceilings: number of threads -> device and precision (`cpu fp32`) -> 10⁹ operations a second.
        exports: what exporting a model with random weights cost, by precision.
    """

    header: Header
    cases: tuple[CaseResult, ...]
    targets: tuple[TargetFacts, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()
    ceilings: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    exports: "Mapping[str, ExportCost]" = field(default_factory=dict)

    def to_dict(self) -> Json:
        ceilings = {str(threads): {**rates} for threads, rates in self.ceilings.items()}
        settings = {**self.header.settings, "matmul_ceiling_gflop_per_s": ceilings}
        exports = {precision: cost.to_dict() for precision, cost in self.exports.items()}
        return {
            **replace(self.header, settings=settings).to_dict(),
            "cases": [case.to_dict() for case in self.cases],
            "targets": [target.to_dict() for target in self.targets],
            "scenarios": [scenario.to_dict() for scenario in self.scenarios],
            **({"export": exports} if exports else {}),
        }


def case_results(
    runs: Sequence[Samples[Case]], *, reference: str, work: Callable[[Case], Work] | None = None
) -> tuple[CaseResult, ...]:
    """The figures of every case.

    Args:
        runs: interleaved runs, each of its own cases.
        reference: the target to which ratios are taken, paired by round.
        work: adds rates and shares of the ceiling.
    """
    return tuple(
        _case_result(samples, case, reference, None if work is None else work(case))
        for samples in runs
        for case in sorted(samples.latency_ms)
    )


def _case_result(samples: Samples[Case], case: Case, reference: str, work: Work | None) -> CaseResult:
    latency_ms, cpu_ms = samples.latency_ms[case], samples.cpu_ms.get(case)
    figures = samples.percentiles(case)
    cpu_p50_ms = float(np.median(cpu_ms)) if cpu_ms else None
    rate = None
    if work is not None:
        gflop = work.gflop_per_image * case.batch_size
        used_ms = cpu_p50_ms if work.is_on_cpu else None
        rate = roofline(gflop, figures.p50_ms, work.ceiling, cpu_ms=used_ms, threads=case.threads)
    other = replace(case, target=reference)
    return CaseResult(
        case=case,
        percentiles=figures,
        intervals=percentile_intervals(latency_ms),
        images_per_s=1000 * case.batch_size / figures.p50_ms,
        cpu_p50_ms=cpu_p50_ms,
        gflop_per_image=None if work is None else work.gflop_per_image,
        roofline=rate,
        ratio_to_reference=samples.ratio(case, other) if other in samples.latency_ms else None,
        latency_ms=latency_ms,
        cpu_ms=cpu_ms or None,
    )
