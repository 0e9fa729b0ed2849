"""Our evaluation in several variants beside the plain one, interleaved: `pfm bench eval`.

The work is what the paper reports of a model: `infer_best`, and forgetting every k-subset for
k = 1, C/2 and C-1. Plain runs each active set through the whole model; ours runs each distinct one
once, behind a trunk that is shared (`pfm.evaluation.evaluator`).

Letters: N images, C classes.
"""

import functools
import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pfm.device import Processes
from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.samples import Samples
from pfm.evaluation.subsets import forget_sizes
from pfm.evaluation.table import ActiveSet
from pfm.runlog import progress
from pfm.storage import Json
from pfm_bench.measuring.ceilings import synchronise
from pfm_bench.measuring.memory import gpu_peak_mib, peak_in_child
from pfm_bench.measuring.rounds import measure
from pfm_bench.reports.variants import VariantsReport, variants_report
from pfm_bench.targets.plain import PlainEvaluation
from pfm_bench.targets.workbench import (
    HEAVY,
    PLAIN,
    WARMUP_ROUNDS,
    Variant,
    Workbench,
    build_ours,
    build_plain,
    list_variants,
)

INFER_BEST = "infer_best"
Answers = dict[str | ActiveSet, torch.Tensor]
Subsets = dict[int, list[ActiveSet]]  # classes to forget, by k


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How many answers differ from those of the reference, of all that it was asked for."""

    compared: int
    differing: int

    def to_dict(self) -> Json:
        return {"compared": self.compared, "differing": self.differing, "identical": self.differing == 0}


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """More about a variant of the evaluation.

    Attributes:
        variant: None of the plain evaluation.
        forwards: passes over the images.
        peak_memory_mib: None where it was not measured.
        answers: beside those of plain; None where the model is another.
    """

    variant: Variant | None
    forwards: int
    peak_memory_mib: float | None
    answers: Agreement | None

    def to_dict(self) -> Json:
        return {
            "forwards": self.forwards,
            "peak_memory_mib": self.peak_memory_mib,
            **({} if self.variant is None else self.variant.describe()),
            **({} if self.answers is None else {"answers": self.answers.to_dict()}),
        }


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Everything that was measured.

    Attributes:
        answers: of float32 ours beside plain, which have the same weights.
    """

    runs: VariantsReport
    answers: Agreement

    def to_dict(self) -> Json:
        return {**self.runs.to_dict(), "answers": self.answers.to_dict()}


class PlainRun:
    """One evaluation by the plain reference."""

    def __init__(self, bench: Workbench, removed: Subsets) -> None:
        self.model = build_plain(bench).eval()
        self.model.load_weights_of(build_ours(bench, Variant()))
        self.removed = removed
        self.evaluation = PlainEvaluation(
            bench.split.inputs, bench.preprocess, device=bench.device, batch_size=bench.config.batch_size
        )
        self.device = bench.device
        self.answers: Answers = {}
        self.forwards = self.model.num_classes + sum(len(subsets) for subsets in removed.values())

    def __call__(self) -> None:
        answers: Answers = {INFER_BEST: self.evaluation.infer_best(self.model)}
        for subsets in self.removed.values():
            for subset in subsets:
                active = keep(subset, self.model.num_classes)
                answers[active] = self.evaluation.answers(self.model, active)
        self.answers = answers
        synchronise(self.device)


class OurRun:
    """One evaluation by `pfm.evaluation.evaluator.Evaluator`, each distinct active set once."""

    def __init__(self, bench: Workbench, removed: Subsets, variant: Variant) -> None:
        self.model = build_ours(bench, variant).eval()
        count = self.model.num_classes
        wanted: list[ActiveSet] = [(i,) for i in range(count)]
        wanted += [keep(subset, count) for subsets in removed.values() for subset in subsets]
        self.sets = list(dict.fromkeys(wanted))
        self.evaluator = make_evaluator(bench)
        self.device = bench.device
        self.answers: Answers = {}
        self.forwards = len(self.sets)

    def __call__(self) -> None:
        table = self.evaluator.run(self.model, self.sets, {})
        self.answers = {**table.answers, INFER_BEST: self.model.predict(table.best_single)}
        synchronise(self.device)


def keep(removed: ActiveSet, num_classes: int) -> ActiveSet:
    """The active set that is left when `removed` is gone."""
    return tuple(i for i in range(num_classes) if i not in removed)


def make_evaluator(bench: Workbench) -> Evaluator:
    """Ours, over the random images."""
    samples = Samples.of(bench.split, torch.arange(bench.config.num_classes), bench.preprocess, bench.device)
    processes = Processes(device=bench.device)
    return Evaluator(samples, processes, batch_size=bench.config.batch_size, seed=bench.config.seed)


def choose_subsets(num_classes: int, k: int, at_most: int, seed: int) -> list[ActiveSet]:
    """All k-subsets of the classes, or `at_most` of them at random (0: all)."""
    if at_most == 0 or math.comb(num_classes, k) <= at_most:
        return list(itertools.combinations(range(num_classes), k))
    dice = random.Random(seed)
    chosen: set[ActiveSet] = set()
    while len(chosen) < at_most:
        chosen.add(tuple(sorted(dice.sample(range(num_classes), k))))
    return sorted(chosen)


def bench_evaluation(bench: Workbench, *, max_subsets: int = 0) -> EvaluationReport:
    """Measure every variant.

    The answers of those with the prompts at block 0 are compared with plain: float32 ours has the same weights,
    bf16 those rounded.

    Args:
        max_subsets: of each size, at most; 0: all.
    """
    config = bench.config
    sizes = forget_sizes(config.num_classes)
    removed = {k: choose_subsets(config.num_classes, k, max_subsets, config.seed) for k in sizes}
    variants = {variant.name: variant for variant in list_variants(bench.spec)}
    runs, peaks = _build_runs(bench, removed, variants)
    with progress(config.rounds, "rounds", unit="round") as bar:
        samples = measure(
            runs, rounds=config.rounds, warmup_rounds=WARMUP_ROUNDS, budget_s=config.seconds, on_round=bar.update
        )
    facts: dict[str, RunFacts] = {}
    for name, run in runs.items():
        variant = variants.get(name)
        is_plains_model = variant is None or variant.prompt_layer == 0
        facts[name] = RunFacts(
            variant=variant,
            forwards=run.forwards,
            peak_memory_mib=peaks.get(name),
            answers=compare_answers(run.answers, runs[PLAIN].answers) if is_plains_model else None,
        )
    subsets = {
        str(k): {"run": len(chosen), "possible": math.comb(config.num_classes, k)} for k, chosen in removed.items()
    }
    report = variants_report(
        samples,
        reference=PLAIN,
        images_per_call=len(bench.split),
        settings={**bench.settings(), "num_images": len(bench.split), "subsets": subsets},
        facts=facts,
    )
    answers = facts[Variant().name].answers
    assert answers is not None
    return EvaluationReport(runs=report, answers=answers)


def _build_runs(
    bench: Workbench, removed: Subsets, variants: Mapping[str, Variant]
) -> tuple[dict[str, PlainRun | OurRun], dict[str, float]]:
    """Every run, and the peak memory in MiB of those for which it was measured."""
    builders = {name: functools.partial(OurRun, bench, removed, variant) for name, variant in variants.items()}
    runs: dict[str, PlainRun | OurRun] = {}
    peaks: dict[str, float] = {}
    for name, build in {PLAIN: functools.partial(PlainRun, bench, removed), **builders}.items():
        base = torch.cuda.memory_allocated() if bench.device.type == "cuda" else 0
        runs[name] = build()
        if bench.device.type == "cuda":
            peaks[name] = gpu_peak_mib(bench.device, runs[name], base)
        elif bench.config.memory:
            peaks[name] = peak_in_child(build, calls=1, preload=(__name__, *HEAVY))
    return runs, peaks


def compare_answers(answers: Answers, reference: Answers) -> Agreement:
    """How many answers differ, of all sets that the reference was asked for."""
    return Agreement(
        compared=sum(len(expected) for expected in reference.values()),
        differing=sum(int((answers[key] != expected).sum()) for key, expected in reference.items()),
    )
