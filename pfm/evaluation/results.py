"""What an evaluation found, as text for people and as the files of the paper's tool."""

import dataclasses
from pathlib import Path

from pfm.evaluation.outcome import Evaluation
from pfm.evaluation.pictures import draw_forgetting
from pfm.evaluation.subsets import shortly
from pfm.model.classifier import PromptedClassifier
from pfm.storage import write_json

# forget accuracy this far above chance is named, of so many classes
FORGETS_BADLY = 0.2
MOST_NAMED = 8
# the paper's inference modes, in words; low is good where the own prompt is away
MEANINGS = {
    "full_bank": "every prompt there",
    "full_bank_shuffle": "every prompt there, in another order",
    "match_only": "only the sample's own prompt",
    "mixed_subset": "its own and some others",
    "all_wrong": "every prompt but its own: low where the model forgets",
    "wrong_subset": "some others, not its own: low where the model forgets",
    "random_wrong": "one other: low where the model forgets",
    "none": "no prompt at all: low where the model forgets",
    "infer_best": "each prompt alone, the largest score wins",
}


def percent(value: float) -> str:
    """Five characters; nan is n/a."""
    return "  n/a" if value != value else f"{100 * value:5.1f}"


def describe_evaluation(measured: Evaluation, model: PromptedClassifier) -> str:
    """Both halves of an evaluation as tables for people; accuracies in percent."""
    counted = measured.num_samples - measured.num_erased
    left_out = f"; {measured.num_erased} of erased classes are left out" if measured.num_erased else ""
    lines = [f"accuracy by inference mode, % of {counted} test samples{left_out}"]
    alone = {f"class_{i}": name for i, name in zip(model.classes.ids, model.classes.names, strict=True)}
    for mode, accuracy in measured.modes.items():
        what = "prompt" if model.readout.sees_prompts else "row"
        said = model.readout.meanings.get(mode) or MEANINGS.get(mode)
        meaning = said or f"only the {what} of {alone[mode]}, asked for every class"
        lines.append(f"  {mode:<20}{percent(accuracy)}   {meaning}")
    if measured.unknown is not None:
        there, gone = percent(measured.unknown.class_present), percent(measured.unknown.class_removed)
        lines.append(f"answered `unknown`: {there} % with the class there, {gone} % with it removed")
    if measured.subsets:
        lines.append(f"forgetting k of {model.num_classes} classes, % (chance {100 / model.num_classes:.1f})")
        lines.append("   k   subsets          forget         retain")
    for entry in measured.subsets:
        row = entry.summary()
        count = f"{len(entry.subsets)}" + (
            f" of {shortly(entry.num_possible)}" if len(entry.subsets) < entry.num_possible else ""
        )
        lines.append(
            f"  {entry.k:>2}   {count:<15}"
            f"{percent(row['forget_mean'])} ±{percent(row['forget_std'])}  "
            f"{percent(row['retain_mean'])} ±{percent(row['retain_std'])}"
        )
    if measured.subsets:
        lines += _what_forgetting_means(measured, model)
    return "\n".join(lines)


def _what_forgetting_means(measured: Evaluation, model: PromptedClassifier) -> list[str]:
    """How to read the table, and what to do where the model did not learn to forget."""
    lines = [
        f"k = {entry.k}: {len(entry.subsets):,} of {shortly(entry.num_possible)} subsets, drawn with the seed; "
        "--max_subsets takes more"
        for entry in measured.subsets
        if len(entry.subsets) < entry.num_possible
    ]
    if model.readout.erasure_is_exact:
        lines.append("forget, retain: rows of the full solution; --exact_subsets solves for each set that is left")
    elif model.readout.class_rows:
        lines.append(
            "forget: a class's prompt is away and its classifier row still there; erased files have neither, and never "
            "answer it"
        )
    return [*lines, *not_forgotten(measured, model)]


def not_forgotten(measured: Evaluation, model: PromptedClassifier) -> list[str]:
    """A note that names the classes that are answered far above chance although their prompt is away; none of none.

    Such a class is not hidden by a prompt that is left out, and what the shared weights say of it is there after an
    erasure too, for whoever finds a classifier row.
    """
    chance = 1 / model.num_classes
    found: dict[str, float] = {}
    for entry in measured.subsets:
        if entry.k == 1:
            names = [model.classes.names[position] for (position,) in entry.subsets]
            found = {
                name: share for name, share in zip(names, entry.forget, strict=True) if share > chance + FORGETS_BADLY
            }
    if not found:
        return []
    worst = sorted(found, key=lambda name: -found[name])
    named = ", ".join(f"{name} in {percent(found[name]).strip()} %" for name in worst[:MOST_NAMED])
    more = f" and {len(worst) - MOST_NAMED} more" if len(worst) > MOST_NAMED else ""
    return [
        f"note: not forgotten when their prompt is away: {named}{more} of their samples (chance "
        f"{percent(chance).strip()} %). Suspending them does not hide them, and the shared weights still tell them "
        "apart after an erasure: train longer, with --schedule cosine --warmup 0.2, or take --readout prompt"
    ]


def write_evaluation(
    stem: Path, measured: Evaluation, model: PromptedClassifier, *, title: str, dataset: str | None = None
) -> list[Path]:
    """The paper tool's JSON, everything measured as JSON, and the picture; returns what was written.

    Args:
        dataset: what the JSON says it is of.
    """
    accuracies = Path(f"{stem}_inference_accuracies.json")
    write_json(accuracies, measured.inference_accuracies())
    whole = Path(f"{stem}_evaluation.json")
    write_json(whole, {"dataset": dataset, "classes": dataclasses.asdict(model.classes), **measured.to_dict()})
    written = [accuracies, whole]
    if measured.subsets:
        picture = Path(f"{stem}_forgetting.png")
        draw_forgetting(
            {f"readout {model.config.readout}": measured.inference_accuracies()},
            picture,
            num_classes=model.num_classes,
            title=title,
        )
        written.append(picture)
    return written
