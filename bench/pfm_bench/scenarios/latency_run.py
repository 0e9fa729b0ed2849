"""A bundle's latencies beside torch's, interleaved: `pfm bench serve`; its scenarios after them.

One interleaved run for each number of threads, since a runtime cannot change its own.
"""

import functools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.errors import ConfigError
from pfm.options import option
from pfm.runlog import progress
from pfm_bench.latency import Samples, measure, peak_in_child
from pfm_bench.reports.serving import Case, Work, to_json
from pfm_bench.scenarios import serving as scenarios
from pfm_bench.targets.plans import KINDS, Plan, Target, choose_kinds, plan_targets, precision_of
from pfm_bench.targets.roofline import ceiling_key, forward_gflop, measure_ceilings
from pfm_export.serving.bundle import Bundle

HEAVY = ("pfm_bench.targets.plans", "transformers.models.vit.modeling_vit")


@dataclass(frozen=True, kw_only=True)
class ServeBenchConfig:
    """`pfm bench serve`; a list is written with commas."""

    targets: str = option(
        "", f"What to time: {', '.join(KINDS)}.  [default: torch, and ONNX Runtime on the CPU and GPU that are there]"
    )
    batch_sizes: str = option("1,8,32", "Images per call.")
    active_sizes: str = option("", "Numbers of active prompts; 0 is allowed.  [default: 1, half, all]")
    threads: str = option("0", "CPU threads of each runtime; a run for each number.  [0: all cores]")
    rounds: int = option(50, "Rounds; in each, every case runs once.", minimum=5)
    seconds: float = option(
        30.0, "Stop early after this time (not before 5 rounds); each scenario takes about as long.", minimum=1.0
    )
    device: str = option(
        "auto", "Where torch runs, and which targets are the default.", choices=("auto", "cpu", "cuda")
    )
    memory: bool = option(False, "Measure the peak memory of each target on a CPU too, in a process of its own.")
    scenarios: str = option("", f"Measure these too: {', '.join(scenarios.NAMES)}.")
    latency_bound_ms: float = option(
        0.0, "The server scenario's bound on p99.  [0: three times the first target's median]", minimum=0.0
    )
    seed: int = option(0, "Seed of the order in a round and of the arrivals.", minimum=0)

    def __post_init__(self) -> None:
        _ = self.batch_list, self.active_list, self.thread_list
        for name in self.scenario_list:
            if name not in scenarios.NAMES:
                raise ConfigError(f"--scenarios {name!r}: no such scenario; choose from {', '.join(scenarios.NAMES)}")

    @property
    def batch_list(self) -> list[int]:
        return _numbers(self.batch_sizes, "--batch_sizes", minimum=1)

    @property
    def active_list(self) -> list[int]:
        return _numbers(self.active_sizes, "--active_sizes", minimum=0) if self.active_sizes.strip() else []

    @property
    def thread_list(self) -> list[int]:
        cores = os.cpu_count() or 1
        return sorted({count or cores for count in _numbers(self.threads, "--threads", minimum=0)})

    @property
    def target_list(self) -> list[str]:
        return _names(self.targets)

    @property
    def scenario_list(self) -> list[str]:
        return _names(self.scenarios)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(text: str, name: str, *, minimum: int) -> list[int]:
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: whole numbers separated by commas are expected") from error
    if values[0] < minimum:
        raise ConfigError(f"{name} {text!r}: numbers from {minimum} up are expected")
    return values


def bench_bundle(
    folders: Sequence[Path], checkpoint: Path | None, config: ServeBenchConfig, *, workplace: Path
) -> dict[str, Any]:
    """Measure bundles of one model; see `pfm_bench.reports.serving.to_json` for what comes back.

    Args:
        folders: several precisions, say; torch's model has the shape of the first.
        checkpoint: torch's weights; None takes random ones.
        workplace: a folder for copies of the bundles, which `time_to_forget` erases classes from.

    Raises:
        ConfigError: bundles of different models, or more active prompts than classes.
        DeviceError: a target that this machine cannot run.
    """
    kinds = choose_kinds(config.target_list, config.device)
    bundles = [Bundle.open(folder) for folder in folders]
    active_sizes = _check(bundles, config)
    manifest = bundles[0].manifest
    runs: list[Samples[Case]] = []
    targets: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    ceilings: dict[int, dict[str, float]] = {}
    plans: list[Plan] = []
    for threads in config.thread_list:
        plans = plan_targets(kinds, folders, checkpoint, device=config.device, threads=threads)
        with _threads(threads):
            run = _Run(plans, config, active_sizes)
            runs.append(run.samples)
            targets += run.facts
            ceilings[threads] = run.ceilings
            results += [{"threads": threads, **entry} for entry in _scenarios(run, folders, workplace)]
            del run  # so that the next one's models do not lie beside these
    by_name = {plan.name: plan for plan in plans}
    places = {entry["name"]: _place(entry["where"]) for entry in targets}

    def work(case: Case) -> Work:
        key = ceiling_key(places[case.target], by_name[case.target].arithmetic)
        return Work(
            gflop_per_image=forward_gflop(manifest, case.num_prompts),
            ceiling=ceilings[case.threads].get(key),
            is_on_cpu=places[case.target] == "cpu",
        )

    settings = {
        "threads": config.thread_list,
        "precision": {plan.name: plan.precision for plan in plans},
        "ort_threads_spin": False,
        "torch_weights": "random weights of the bundle's shape" if checkpoint is None else "checkpoint",
        "where": {entry["name"]: entry["where"] for entry in targets},
        "backbone": manifest["backbone"]["model_name"],
        "readout": manifest["readout"],
        "num_classes": len(bundles[0].classes),
        "seed": config.seed,
        "matmul_ceiling_gflop_per_s": {str(threads): rates for threads, rates in ceilings.items()},
    }
    document = to_json(runs, settings=settings, reference=plans[0].name, work=work)
    return {**document, "targets": targets, "scenarios": results}


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


def _place(where: str) -> str:
    """`cpu` or `cuda`, from torch's device or ONNX Runtime's provider."""
    return "cpu" if where.lower().startswith("cpu") else "cuda"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """The targets at one number of threads, loaded and timed.

    Attributes:
        calls: every case, prepared.
        facts: of each target: where it runs, how long it loads, its memory.
    """

    def __init__(self, plans: Sequence[Plan], config: ServeBenchConfig, active_sizes: Sequence[int]) -> None:
        self.plans = plans
        self.config = config
        self.active_sizes = active_sizes
        self.calls: dict[Case, Callable[[], object]] = {}
        self.facts = [self._load(plan) for plan in plans]
        wanted = [(_place(fact["where"]), plan.arithmetic) for fact, plan in zip(self.facts, plans, strict=True)]
        before = measure_ceilings(wanted)
        with progress(config.rounds, "rounds", unit="round") as bar:
            self.samples: Samples[Case] = measure(
                self.calls, rounds=config.rounds, budget_s=config.seconds, seed=config.seed, on_round=bar.update
            )
        self.ceilings = {key: max(rate, before.get(key, 0.0)) for key, rate in measure_ceilings(wanted).items()}

    def call(self, plan: Plan, batch_size: int) -> Callable[[], object]:
        """The call with the most prompts."""
        return self.calls[Case(batch_size, self.active_sizes[-1], plan.name, plan.threads)]

    def _load(self, plan: Plan) -> dict[str, Any]:
        started, cpu_started = time.perf_counter(), time.process_time()
        target: Target = plan.build()
        loaded, cpu_loaded = time.perf_counter(), time.process_time()
        for batch_size in self.config.batch_list:
            for count in self.active_sizes:
                self.calls[Case(batch_size, count, plan.name, plan.threads)] = target.prepare(batch_size, count)
        largest = self.config.batch_list[-1], self.active_sizes[-1]
        before = time.perf_counter()
        self.call(plan, largest[0])()
        first_call_ms = 1000 * (time.perf_counter() - before)
        peak_mib = None
        if self.config.memory and _place(target.where) == "cpu":
            peak_mib = peak_in_child(functools.partial(plan.build_call, *largest), calls=2, preload=HEAVY)
        return {
            "name": plan.name,
            "threads": plan.threads,
            "precision": plan.precision,
            "where": target.where,
            "load_s": loaded - started,
            "load_cpu_s": cpu_loaded - cpu_started,
            "first_call_ms": first_call_ms,
            "peak_memory_mib": peak_mib,
            "size_bytes": None if plan.is_torch else sum(f.stat().st_size for f in plan.bundle.iterdir()),
        }


def _scenarios(run: _Run, folders: Sequence[Path], workplace: Path) -> Iterator[dict[str, Any]]:
    """Each scenario of each target; `time_to_forget` of each bundle."""
    config = run.config
    seconds = config.seconds
    smallest = config.batch_list[0]
    bound_ms = config.latency_bound_ms
    for name in config.scenario_list:
        if name == "time_to_forget":
            for folder in folders:
                threads = run.plans[0].threads
                device = "cpu" if config.device == "cpu" else "auto"
                figures = scenarios.time_to_forget(folder, workplace, device=device, threads=threads)
                precision = precision_of(Bundle.open(folder))
                yield {"scenario": name, "target": f"PromptSession {precision}", **figures}
            continue
        for plan in run.plans:
            call = run.call(plan, smallest)
            if name == "single_stream":
                figures = scenarios.single_stream(call, seconds=seconds)
            elif name == "offline":
                calls = {size: run.call(plan, size) for size in config.batch_list}
                figures = scenarios.offline(calls, seconds=seconds)
            else:
                if not bound_ms:
                    first = Case(smallest, run.active_sizes[-1], run.plans[0].name, plan.threads)
                    bound_ms = 3 * run.samples.percentiles(first)["p50_ms"]
                figures = scenarios.server(call, bound_ms=bound_ms, seconds=seconds, seed=config.seed)
            if name != "offline":
                figures["batch_size"] = smallest
            yield {"scenario": name, "target": plan.name, "num_prompts": run.active_sizes[-1], **figures}
