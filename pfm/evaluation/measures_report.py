"""The measures of the field as a table for people, as JSON, as pictures and as one page."""

import html
from collections.abc import Iterator
from pathlib import Path

from pfm.classes import listed
from pfm.evaluation.intervals import Interval
from pfm.evaluation.markup import page, picture, table
from pfm.evaluation.measure_pictures import draw_confusion, draw_destinations, draw_reliability
from pfm.evaluation.measures import FieldMeasures
from pfm.evaluation.removal import SURE, Destinations, Removal
from pfm.storage import write_bytes, write_json, write_text

MOST_ROWS = 30  # of a table at the terminal
MOST_ANSWERS = 4  # that are named of a removed class's samples


def describe_measures(measures: FieldMeasures, removal: Removal) -> str:
    """Both as tables for people; shares in percent."""
    return "\n".join([*_overall(measures), *_by_class(measures), *_by_removed(removal)])


def _overall(measures: FieldMeasures) -> Iterator[str]:
    yield f"measures of the field, all classes there, % of {measures.num_samples} test samples"
    for name, value, meaning in _figures(measures):
        yield f"  {name:<20}{_percent(value):>5}   {meaning}"
    if measures.left_out:
        yield f"  no test samples, so in no mean: {listed(measures.left_out)}"


def _figures(measures: FieldMeasures) -> list[tuple[str, float | None, str]]:
    return [
        ("AUC", measures.auc, "as MedMNIST's evaluator computes it"),
        ("accuracy", measures.accuracy, "the same: the most probable class, never `unknown`"),
        ("balanced accuracy", measures.balanced_accuracy, "mean recall; `unknown` is never right"),
        ("macro F1", measures.macro_f1, "mean over the classes"),
        ("calibration error", measures.calibration.ece, "how far the probability is from how often it is right"),
    ]


def _by_class(measures: FieldMeasures) -> Iterator[str]:
    width = max(5, *(len(entry.name) for entry in measures.classes))
    yield f"  {'class':<{width}} samples  precision           recall              AUC{_unit(measures)}"
    for entry in measures.classes[:MOST_ROWS]:
        cells = "  ".join(
            f"{_with_interval(value, interval):<18}"
            for value, interval in (
                (entry.precision, entry.precision_interval),
                (entry.recall, entry.recall_interval),
                (entry.auc, entry.auc_interval),
            )
        )
        yield f"  {entry.name:<{width}} {entry.support:>7}  {cells}".rstrip()
    if len(measures.classes) > MOST_ROWS:
        yield f"  … and {len(measures.classes) - MOST_ROWS} more classes, in the files"


def _unit(measures: FieldMeasures) -> str:
    found = measures.resampling
    if found is None:
        return ""
    return f"   (95 % intervals: {found.num_resamples:,} resamples of {found.num_units:,} {found.unit}s)"


def _by_removed(removal: Removal) -> Iterator[str]:
    if not removal.classes:
        return
    yield (
        "each class removed in turn: where its samples go, and how many answers are sure (a class at "
        f"{100 * SURE:.0f} % or more), before and after"
    )
    width = max(len(entry.name) for entry in removal.classes)
    for entry in removal.classes[:MOST_ROWS]:
        sure = f"sure {_percent(entry.sure_before)} -> {_percent(entry.sure_after)} %"
        yield f"  {entry.name:<{width}}  {sure:<22}  {_answers(entry)}"
    if len(removal.classes) > MOST_ROWS:
        yield f"  … and {len(removal.classes) - MOST_ROWS} more classes, in the files"


def _answers(entry: Destinations) -> str:
    shown = list(entry.answers_after.items())[:MOST_ANSWERS]
    rest = len(entry.answers_after) - len(shown)
    return ", ".join(f"{name}: {100 * share:.0f} %" for name, share in shown) + (f", {rest} more" if rest else "")


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _with_interval(value: float | None, interval: Interval | None) -> str:
    if value is None or interval is None:
        return _percent(value)
    return f"{_percent(value)} ({_percent(interval[0])}–{_percent(interval[1])})"


def write_measures(stem: Path, measures: FieldMeasures, removal: Removal, *, title: str) -> list[Path]:
    """JSON, three pictures, and a page with all of it; returns what was written."""
    document = Path(f"{stem}_measures.json")
    write_json(document, {"measures": measures.to_dict(), "removal": removal.to_dict()})
    pictures = {
        "confusion": draw_confusion(measures, title="Answers, all classes there"),
        "reliability": draw_reliability(measures, title="How sure, how often right"),
    }
    if removal.classes and len(measures.classes) > 1:
        pictures["removed"] = draw_destinations(removal, title="Each class removed in turn")
    written = [document]
    for name, png in pictures.items():
        written.append(Path(f"{stem}_{name}.png"))
        write_bytes(written[-1], png)
    written.append(Path(f"{stem}_measures.html"))
    write_text(written[-1], render(measures, removal, pictures, title=title))
    return written


ALT = {
    "confusion": "Confusion matrix: the share of each class's test samples by answer",
    "reliability": "Reliability diagram: the share of right answers against their probability, and their number",
    "removed": "Where the samples of each class go once it is removed, and the share of sure answers before and after",
}


def render(measures: FieldMeasures, removal: Removal, pictures: dict[str, bytes], *, title: str) -> str:
    """The page.

    Args:
        pictures: PNG by name of `ALT`.
    """
    found = measures.resampling
    unit = (
        f" Intervals of 95 % over {found.num_resamples:,} resamples of {found.num_units:,} {found.unit}s."
        if found
        else ""
    )
    left_out = html.escape(listed(measures.left_out))
    classes = [
        [
            html.escape(entry.name), str(entry.support), _with_interval(entry.precision, entry.precision_interval),
            _with_interval(entry.recall, entry.recall_interval), _with_interval(entry.auc, entry.auc_interval),
        ]
        for entry in measures.classes
    ]  # fmt: skip
    removed = [
        [
            html.escape(entry.name), str(entry.num_samples), html.escape(_answers(entry)),
            f"{_percent(entry.sureness_before)} → {_percent(entry.sureness_after)}",
            f"{_percent(entry.sure_before)} → {_percent(entry.sure_after)}",
        ]
        for entry in removal.classes
    ]  # fmt: skip
    shown = {name: picture(ALT[name], png) for name, png in pictures.items()}
    parts = [
        f"<h1>Measures: {html.escape(title)}</h1>",
        f"<p>{measures.num_samples} test samples, all classes there; in percent.{unit}</p>",
        table(["measure", "value", "what it is"], [[n, _percent(v), html.escape(m)] for n, v, m in _figures(measures)]),
        f"<p>Without test samples, so in no mean: {left_out}.</p>" if left_out else "",
        table(["class", "samples", "precision", "recall", "AUC"], classes),
        shown["confusion"],
        shown["reliability"],
        "<h2>A class is removed: where do its samples go?</h2>",
        table(
            [
                "removed class",
                "samples",
                "answers then",
                "mean probability",
                f"sure ({SURE:.0%} or more)",
            ],
            removed,
        ),
        "<p>The mean probability is that of the answer given, before and after; sure is the share of samples that are "
        "answered with a class at that probability.</p>",
        shown.get("removed", ""),
    ]
    return page(f"Measures: {html.escape(title)}", parts)
