"""The picture of served answers: inputs of the erased class above, of others below, each with its answers under it.

Lengths are in inches from the upper left; letters of `BODY` points can still be read at half the picture's size.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pfm.evaluation.pictures import FORGET, QUIET, RETAIN, new_figure, save_figure
from pfm_bench.demo.answers import SHOWN, Group, ServedAnswers, ShownInput
from pfm_bench.demo.task import Task
from pfm_export.serving.session import UNKNOWN

TITLE, HEADING, BODY = 15, 12, 10.5
WIDTH, GAP = 10.0, 0.1
LABELS = 0.7  # left of the cards: the readouts' names
CARD = (WIDTH - LABELS - (SHOWN - 1) * GAP) / SHOWN
TITLE_ROOM, NAME_ROOM, TALL, ROW = 0.45, 0.28, 1.6, 0.31  # of a group's title, a class's name, an input, its answers
ARROW, PADDING = 0.2, 0.16
EM = 0.62 / 72  # inches of a letter and point, about
LONGEST_NAME = 9
# an answer's mark, the colours of its letters and of its ground
MARKS = {
    "right": ("✓", "#14632f", "#d3eedb"),
    "wrong": ("✗", "#96180c", "#fbd9d5"),
    "unknown": ("?", "#3d4150", "#e1e3ea"),
}


def judge_answer(answer: str, truth: str) -> str:
    """A key of `MARKS`."""
    return "right" if answer == truth else "unknown" if answer == UNKNOWN else "wrong"


def headline(answers: ServedAnswers) -> str:
    """What happened, in one line."""
    times, size = sum(answers.times_answered.values()), answers.erased.size + answers.others.size
    outcome = f"answered {times} times" if times else "not answered once"
    return f"Class {answers.forgotten}, erased from the served files: {outcome} in {size:,} test {answers.noun}"


def describe_group(group: Group) -> str:
    """How many of all its inputs were answered rightly."""
    shares = (f"{name} {100 * before:.1f} → {100 * after:.1f} %" for name, (before, after) in group.right.items())
    return f"right, of all {group.size:,}:  {',  '.join(shares)}"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where the answers stand in a card, the same in all of a picture.

    Attributes:
        before, after: widths in inches.
        size: of the letters, in points; smaller than `BODY` where names are long.
    """

    before: float
    after: float
    size: float

    @classmethod
    def that_fit(cls, answers: ServedAnswers) -> "Columns":
        every = [
            pair for group in (answers.erased, answers.others) for one in group.shown for pair in one.answers.values()
        ]
        letters = [2 + max(len(shorten(pair[place])) for pair in every) for place in (0, 1)]  # with the mark
        size = min(BODY, (CARD - ARROW - 2 * PADDING) / (EM * sum(letters)))
        before, after = (count * EM * size + PADDING for count in letters)
        return cls(before=before, after=after, size=size)

    @property
    def start(self) -> float:
        """From the left of a card, which they stand in the middle of."""
        return (CARD - self.before - ARROW - self.after) / 2


def shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def draw_answers(answers: ServedAnswers, task: Task, inputs: torch.Tensor, path: Path) -> None:
    """Write the picture.

    Args:
        inputs: of the test split, as they are stored.
    """
    save_figure(answers_figure(answers, task, inputs), path)


def answers_figure(answers: ServedAnswers, task: Task, inputs: torch.Tensor) -> Any:
    """The picture as a figure of matplotlib's, not yet written; see `draw_answers`."""
    noun = answers.noun.capitalize()
    groups = (
        (f"{noun} of the erased class", FORGET, answers.erased),
        (f"{noun} of other classes", RETAIN, answers.others),
    )
    group_height = TITLE_ROOM + NAME_ROOM + TALL + task.axis_room[1] + ROW * len(answers.erased.right) + 0.3
    top = 0.9
    height = top + len(groups) * group_height - 0.2
    figure = new_figure(WIDTH, height, layout=None)
    canvas: Any = figure.add_axes((0, 0, 1, 1))
    canvas.set(xlim=(0, WIDTH), ylim=(height, 0))
    canvas.axis("off")
    canvas.text(0, 0.15, headline(answers), size=TITLE, weight="bold", va="center")
    canvas.text(0, 0.53, "Above each: its class.  Below: the served answer, before → after.", size=BODY, va="center")
    for x, kind in zip((7.35, 8.15, 9.05), MARKS, strict=True):
        _draw_chip(canvas, (x, 0.53), kind, kind, BODY)
    columns = Columns.that_fit(answers)
    for number, (title, color, group) in enumerate(groups):
        y = top + number * group_height
        canvas.plot([0, WIDTH], [y, y], color=color, linewidth=3, solid_capstyle="butt")
        canvas.text(0, y + TITLE_ROOM / 2, title, size=HEADING, weight="bold", color=color, va="center")
        place = {"ha": "right", "va": "center"}
        canvas.text(WIDTH, y + TITLE_ROOM / 2, describe_group(group), size=BODY, color=QUIET, **place)
        _draw_group(canvas, task, inputs, group, y + TITLE_ROOM, columns)
    return figure


def _draw_group(canvas: Any, task: Task, inputs: torch.Tensor, group: Group, y: float, columns: Columns) -> None:
    """The inputs side by side from `y` down, their classes above, their answers below."""
    left, under = task.axis_room
    height = canvas.get_ylim()[0]
    bottom = y + NAME_ROOM + TALL
    lines = {name: bottom + under + 0.08 + (number + 0.5) * ROW for number, name in enumerate(group.right)}
    for readout, line in lines.items():
        canvas.text(0, line, readout, size=BODY, va="center")
    for number, one in enumerate(group.shown):
        x = LABELS + number * (CARD + GAP)
        middle = (x + (left + CARD) / 2, y + NAME_ROOM / 2)
        canvas.text(*middle, shorten(one.truth), size=HEADING, weight="bold", ha="center", va="center")
        box = ((x + left) / WIDTH, 1 - bottom / height, (CARD - left) / WIDTH, TALL / height)
        task.show(inputs[one.index], canvas.figure.add_axes(box))
        for readout, line in lines.items():
            _draw_pair(canvas, one, readout, (x + columns.start, line), columns)


def _draw_pair(canvas: Any, one: ShownInput, readout: str, place: tuple[float, float], columns: Columns) -> None:
    """An answer before and after; `place` is where the first column begins."""
    (x, y), (before, after) = place, one.answers[readout]
    end = x + columns.before
    _draw_chip(canvas, (end - PADDING / 2, y), before, judge_answer(before, one.truth), columns.size, side="right")
    canvas.text(end + ARROW / 2, y, "→", size=BODY, ha="center", va="center")
    start = end + ARROW + PADDING / 2
    _draw_chip(canvas, (start, y), after, judge_answer(after, one.truth), columns.size)


def _draw_chip(
    canvas: Any, place: tuple[float, float], text: str, kind: str, size: float, *, side: str = "left"
) -> None:
    """An answer behind its mark, on a ground of its colour; `place` is the middle of that side."""
    mark, color, ground = MARKS[kind]
    box = {"boxstyle": "round,pad=0.22", "facecolor": ground, "edgecolor": "none"}
    canvas.text(*place, f"{mark} {shorten(text)}", size=size, color=color, ha=side, va="center", bbox=box)
