"""Relearning by fine-tuning: adapters, then all weights, on a few samples; the curve over steps beside the oracles'."""

import statistics
from collections.abc import Sequence
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import counted, picture
from pfm.audit.models import Models
from pfm.audit.relearning import SCOPES, Lesson, Relearned, mean_area, relearn
from pfm.audit.resurrection import choose_samples
from pfm.audit.sampled import compare
from pfm.audit.verdict import Judgement, by_rule
from pfm.data.splits import Split
from pfm.evaluation.pictures import Curve, draw_curves
from pfm.model.checkpoint import Checkpoint

MOST_TESTED = 1000  # of the others' test samples, drawn once for all models


class Steps(TypedDict):
    """One model, a figure for each number of steps, means over the repetitions, in [0, 1]."""

    forget: list[float]
    retain: list[float]
    auroc: list[float]


class RelearningFigures(TypedDict):
    """Fine-tuning of adapters, or of all weights.

    Keys:
        n: samples of the class.
        control: the forgotten model, with samples of other classes under the label.
    """

    scope: str
    n: int
    steps: list[int]
    forgotten: Steps
    retrained: list[Steps]
    control: Steps


class Relearning:
    """Judged is the area under the ROC curve, averaged over the steps: how fast the class is back."""

    name = "relearning"
    about = "the weights and n samples; fine-tunes adapters, or all weights"

    def measure(self, models: Models) -> Measurement[list[RelearningFigures]]:
        if not models.loaded["forgotten"].model.readout.sees_prompts:  # rows that are solved are not tuned
            return Measurement([])
        pairs = [_relearn(models, scope) for scope in SCOPES]
        return Measurement([found for found, _ in pairs], tuple(judgement for _, judgement in pairs))

    def show(self, figures: list[RelearningFigures]) -> str:
        if not figures:
            return ""
        panels = {
            f"{entry['scope']}, {what}": _curves(entry, key)
            for entry in figures
            for what, key in (("accuracy on the class", "forget"), ("AUROC", "auroc"))
        }
        return (
            "<h2>Relearning by fine-tuning</h2>"
            f"<p>The class is added again and the weights are fine-tuned on {counted(figures[0]['n'], 'sample')} of "
            "it, with as many of the others. The band spans the retrained models; the control learns samples of other "
            "classes under the class's label.</p>"
            + picture("relearning", draw_curves(panels, xlabel="steps", ylabel="share", ticks=True))
        )


def _relearn(models: Models, scope: str) -> tuple[RelearningFigures, Judgement]:
    """One scope of fine-tuning, in the forgotten model and in every oracle."""
    config = models.config
    seeds = range(config.relearn_seeds)
    lessons, controls = ([_lesson(models, seed, is_control=c) for seed in seeds] for c in (False, True))

    def tuned(checkpoint: Checkpoint, lessons: list[Lesson]) -> list[list[Relearned]]:
        steps, lr = config.relearn_steps, config.relearn_lr
        return [
            relearn(checkpoint, lesson, scope=scope, steps=steps, lr=lr, seed=seed)
            for seed, lesson in enumerate(lessons)
        ]

    mine, theirs = tuned(models.forgotten, lessons), [tuned(oracle.checkpoint, lessons) for oracle in models.oracles]
    n = int((lessons[0].labels == lessons[0].labels.max()).sum())
    found: RelearningFigures = {
        "scope": scope,
        "n": n,
        "steps": list(config.relearn_steps),
        "forgotten": _means(mine),
        "retrained": [_means(one) for one in theirs],
        "control": _means(tuned(models.forgotten, controls)),
    }
    areas = [mean_area([one for run in runs for one in run[1:]]) for runs in (mine, *theirs)]
    what = f"AUROC of the class while {scope} learn {counted(n, 'sample')} of it is"
    compared = compare(areas[0], areas[1:], config.epsilon)
    return found, by_rule("scrub", f"relearning, {scope}", compared, what)


def _lesson(models: Models, seed: int, *, is_control: bool = False) -> Lesson:
    """n samples of the class and as many of the others, at least one for each of those."""
    groups, config, device = models.groups, models.config, models.device
    others = len(models.full.classes) - len(models.positions)

    def draw(split: Split, size: int, *key: str) -> Split:
        return split.subset(choose_samples(torch.arange(len(split)), size, seed + 1, config.seed, *key)[seed])

    own = draw(groups.retain_train if is_control else groups.forget_train, config.relearn_size, "relearned")
    rest = draw(groups.retain_train, max(config.relearn_size, others), "kept")
    tested = groups.forget_test, _tested(models)
    return Lesson.of((own, rest), tested, full=models.full, positions=models.positions, device=device)


def _tested(models: Models) -> Split:
    """The others' test samples that every model is asked for."""
    split = models.groups.retain_test
    return split.subset(choose_samples(torch.arange(len(split)), MOST_TESTED, 1, models.config.seed, "tested")[0])


def _means(runs: Sequence[Sequence[Relearned]]) -> Steps:
    by_step = list(zip(*runs, strict=True))
    return {
        "forget": [statistics.fmean(one.forget for one in step) for step in by_step],
        "retain": [statistics.fmean(one.retain for one in step) for step in by_step],
        "auroc": [statistics.fmean(one.area.value for one in step) for step in by_step],
    }


def _curves(entry: RelearningFigures, key: str) -> dict[str, Curve]:
    oracles = list(zip(*(one[key] for one in entry["retrained"]), strict=True))
    middle, low, high = ([of(values) for values in oracles] for of in (statistics.fmean, min, max))
    return {
        "forgotten": Curve(entry["steps"], entry["forgotten"][key]),
        "retrained": Curve(entry["steps"], middle, low, high),
        "control": Curve(entry["steps"], entry["control"][key], is_dashed=True),
    }
