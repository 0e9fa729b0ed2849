"""A bundle's latencies beside torch's, interleaved: `pfm bench serve`; its scenarios after them.

One interleaved run for each number of threads, since a runtime cannot change its own.
"""

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pfm.errors import ConfigError
from pfm.runlog import progress
from pfm.storage import Json
from pfm_bench.measuring.ceilings import ceiling_key, measure_ceilings
from pfm_bench.measuring.memory import peak_in_child
from pfm_bench.measuring.roofline import forward_gflop
from pfm_bench.measuring.rounds import Samples, measure
from pfm_bench.reports.header import Header
from pfm_bench.reports.serving_report import Case, ScenarioResult, ServingReport, TargetFacts, Work, case_results
from pfm_bench.scenarios import SCENARIOS, Served
from pfm_bench.scenarios.clock import Call
from pfm_bench.scenarios.serving_config import ServeBenchConfig
from pfm_bench.targets.choosing import choose_targets, plan_targets
from pfm_bench.targets.plan import Plan
from pfm_export.serving.bundle import Bundle

# what a child imports before its memory is looked at
HEAVY = ("pfm_bench.targets.choosing", "transformers.models.vit.modeling_vit")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The targets at one number of threads, loaded and timed.

    Attributes:
        ceilings: 10⁹ operations a second, by device and precision (`cpu fp32`).
    """

    plans: Sequence[Plan]
    facts: Sequence[TargetFacts]
    samples: Samples[Case]
    ceilings: Mapping[str, float]
    scenarios: Sequence[ScenarioResult]


def bench_bundle(
    folders: Sequence[Path], checkpoint: Path | None, config: ServeBenchConfig, *, workplace: Path
) -> ServingReport:
    """Measure bundles of one model.

    Args:
        folders: several precisions, say; torch's model has the shape of the first.
        checkpoint: torch's weights; None takes random ones.
        workplace: a folder for copies of the bundles, which `time_to_forget` erases classes from.

    Raises:
        ConfigError: bundles of different models, or more active prompts than classes.
        DeviceError: a target that this machine cannot run.
    """
    targets = choose_targets(config.target_list, config.device)
    bundles = [Bundle.open(folder) for folder in folders]
    active_sizes = _check(bundles, config)
    runs: dict[int, Run] = {}
    for threads in config.thread_list:
        plans = plan_targets(targets, folders, checkpoint, device=config.device, threads=threads)
        with _threads(threads):
            runs[threads] = _run(plans, config, active_sizes, folders, workplace)
    first = next(iter(runs.values()))
    samples = [run.samples for run in runs.values()]
    facts = [entry for run in runs.values() for entry in run.facts]
    reference = first.plans[0].name
    return ServingReport(
        header=Header.of(
            *samples,
            settings=_settings(bundles[0], checkpoint, config, first.plans, facts),
            reference=reference,
        ),
        cases=case_results(samples, reference=reference, work=functools.partial(_work, bundles[0], runs)),
        targets=tuple(facts),
        scenarios=tuple(result for run in runs.values() for result in run.scenarios),
        ceilings={threads: run.ceilings for threads, run in runs.items()},
    )


def _check(bundles: Sequence[Bundle], config: ServeBenchConfig) -> list[int]:
    """The active sizes, once it is known that all bundles can be asked for them."""
    shapes = [(b.manifest["backbone"]["config"], b.stated.readout, b.manifest["prompt_tokens"]) for b in bundles]
    different = next((b for b, shape in zip(bundles, shapes, strict=True) if shape != shapes[0]), None)
    if different is not None:
        raise ConfigError(
            f"{different.folder} is of another model than {bundles[0].folder} (backbone, readout or prompt tokens); "
            "bench them one by one"
        )
    num_classes = min(len(bundle.classes) for bundle in bundles)
    sizes = config.active_list or sorted({1, (num_classes + 1) // 2, num_classes})
    if sizes[-1] > num_classes:
        raise ConfigError(f"--active_sizes {sizes[-1]}: the bundle has {num_classes} classes")
    return sizes


def _settings(
    bundle: Bundle,
    checkpoint: Path | None,
    config: ServeBenchConfig,
    plans: Sequence[Plan],
    facts: Sequence[TargetFacts],
) -> Json:
    return {
        "threads": config.thread_list,
        "precision": {plan.name: plan.precision for plan in plans},
        "ort_threads_spin": False,
        "torch_weights": "random weights of the bundle's shape" if checkpoint is None else "checkpoint",
        "where": {entry.name: entry.where for entry in facts},
        "backbone": bundle.manifest["backbone"]["model_name"],
        "readout": bundle.manifest["readout"],
        "num_classes": len(bundle.classes),
        "seed": config.seed,
    }


def _work(bundle: Bundle, runs: Mapping[int, Run], case: Case) -> Work:
    """What a case computes, and how fast its device is."""
    run = runs[case.threads]
    plan, facts = next(pair for pair in zip(run.plans, run.facts, strict=True) if pair[0].name == case.target)
    return Work(
        gflop_per_image=forward_gflop(bundle.manifest, case.num_prompts),
        ceiling=run.ceilings.get(ceiling_key(facts.place, plan.arithmetic)),
        is_on_cpu=facts.place == "cpu",
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(
    plans: Sequence[Plan],
    config: ServeBenchConfig,
    active_sizes: Sequence[int],
    folders: Sequence[Path],
    workplace: Path,
) -> Run:
    """Load the targets, time them, run the scenarios; the models are let go of after it."""
    calls: dict[Case, Call] = {}
    facts = [_load(plan, config, active_sizes, calls) for plan in plans]
    places = [(fact.place, plan.arithmetic) for fact, plan in zip(facts, plans, strict=True)]
    before = measure_ceilings(places)
    with progress(config.rounds, "rounds", unit="round") as bar:
        samples: Samples[Case] = measure(
            calls, rounds=config.rounds, budget_s=config.seconds, seed=config.seed, on_round=bar.update
        )
    ceilings = {key: max(rate, before.get(key, 0.0)) for key, rate in measure_ceilings(places).items()}
    threads, smallest = plans[0].threads, config.batch_list[0]
    first = Case(smallest, active_sizes[-1], plans[0].name, threads)
    served = Served(
        plans=plans,
        calls=calls,
        batch_sizes=config.batch_list,
        num_prompts=active_sizes[-1],
        seconds=config.seconds,
        bound_ms=config.latency_bound_ms or 3 * samples.percentiles(first).p50_ms,
        seed=config.seed,
        threads=threads,
        folders=folders,
        workplace=workplace,
        device="cpu" if config.device == "cpu" else "auto",
    )
    results = [result for name in config.scenario_list for result in SCENARIOS.get(name)(served)]
    return Run(
        plans=plans,
        facts=facts,
        samples=samples,
        ceilings=ceilings,
        scenarios=[replace(result, threads=threads) for result in results],
    )


def _load(plan: Plan, config: ServeBenchConfig, active_sizes: Sequence[int], calls: dict[Case, Call]) -> TargetFacts:
    """Build a target and prepare its calls."""
    started, cpu_started = time.perf_counter(), time.process_time()
    target = plan.build()
    loaded, cpu_loaded = time.perf_counter(), time.process_time()
    for batch_size in config.batch_list:
        for count in active_sizes:
            calls[Case(batch_size, count, plan.name, plan.threads)] = target.prepare(batch_size, count)
    largest = config.batch_list[-1], active_sizes[-1]
    before = time.perf_counter()
    calls[Case(*largest, plan.name, plan.threads)]()
    first_call_ms = 1000 * (time.perf_counter() - before)
    facts = TargetFacts(
        name=plan.name,
        threads=plan.threads,
        precision=plan.precision,
        where=target.where,
        load_s=loaded - started,
        load_cpu_s=cpu_loaded - cpu_started,
        first_call_ms=first_call_ms,
        peak_memory_mib=None,
        size_bytes=plan.size_bytes,
    )
    if not config.memory or facts.place != "cpu":
        return facts
    peak = peak_in_child(functools.partial(plan.build_call, *largest), calls=2, preload=HEAVY)
    return replace(facts, peak_memory_mib=peak)
