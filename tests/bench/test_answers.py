"""The demo's served answers: which are shown, how all are counted, and the pictures of them."""

import argparse
import itertools
import json
from pathlib import Path

import pytest
import torch

import redraw
from pfm.classes import ClassList
from pfm.data.config import DataConfig
from pfm.data.mel import MelSettings, mel_banks, mel_bin
from pfm.data.splits import ClassificationData, Split
from pfm_bench.demo.answers import ServedAnswers, collect_answers
from pfm_bench.demo.answers_picture import answers_figure, draw_answers, headline
from pfm_bench.demo.digits import digits_task
from pfm_bench.demo.sounds import SoundsTask
from pfm_bench.demo.story import Answers
from pfm_bench.demo.task import Task

NAMES = ("3", "AbdomenCT", "a name that is long", "yweweler", "nicolas")


def a_task(kind: str) -> Task:
    if kind == "image":
        return digits_task(None, "3")
    sounds = DataConfig(dataset="audiofolder:PATH")
    return SoundsTask(command="", data=sounds, model_name="scratch:ast_mini", forgotten="3", recipes={})


def some_data(kind: str) -> ClassificationData:
    """Twenty inputs, four of each class in turn."""
    generator = torch.Generator().manual_seed(0)
    shape = (20, 1, 8, 8) if kind == "image" else (20, 40, 64)
    inputs = torch.rand(shape, generator=generator)
    split = Split((255 * inputs).byte() if kind == "image" else inputs - 5, torch.arange(20) % 5)
    return ClassificationData("some", ClassList.from_names(list(NAMES)), train=split, test=split)


def some_answers(kind: str) -> ServedAnswers:
    """Everything right before; of the erased class, one answered wrongly and the rest unknown after."""
    truth = [NAMES[index % 5] for index in range(20)]
    after = ["unknown" if name == "3" else name for name in truth]
    after[0] = "a name that is long"
    served = Answers(before=truth, after=after, times_answered=0, erase_ms=1.0)
    return collect_answers(a_task(kind), some_data(kind), {"cls": served, "prompt": served})


def test_all_answers_are_counted_and_the_shown_ones_are_of_several_classes() -> None:
    answers = some_answers("image")
    assert (answers.erased.size, answers.others.size) == (4, 16)
    assert answers.erased.right == {"cls": (1.0, 0.0), "prompt": (1.0, 0.0)}
    assert answers.others.right["cls"] == (1.0, 1.0)
    assert [one.index for one in answers.erased.shown] == [0, 5, 10, 15]
    assert {one.truth for one in answers.others.shown} == set(NAMES) - {"3"}
    assert headline(answers) == "Class 3, erased from the served files: not answered once in 20 test images"
    assert ServedAnswers.from_dict(json.loads(json.dumps(answers.to_dict()))) == answers


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "audio"])
def test_a_picture_of_answers_has_no_text_over_another(kind: str, tmp_path: Path) -> None:
    answers, inputs = some_answers(kind), some_data(kind).test.inputs
    figure = answers_figure(answers, a_task(kind), inputs)
    figure.canvas.draw()
    boxes = {text: text.get_window_extent() for text in figure.axes[0].texts}
    assert len(boxes) == 5 + 2 * (2 + 2 + 4 * (1 + 2 * 3))  # head; two groups of titles, readouts and cards
    for (first, box), (second, other) in itertools.combinations(boxes.items(), 2):
        assert not box.overlaps(other), f"{first.get_text()!r} is over {second.get_text()!r}"
    assert max(box.x1 for box in boxes.values()) <= figure.bbox.x1 + 1
    draw_answers(answers, a_task(kind), inputs, tmp_path / "answers.png")
    assert (tmp_path / "answers.png").stat().st_size > 20_000


def test_a_bin_of_the_mel_scale_is_found_by_its_frequency() -> None:
    settings = MelSettings(num_mel_bins=64)
    banks = mel_banks(settings)  # (64, 256), a column each 31.25 Hz
    for hertz in (1000, 2000, 4000):
        assert banks[:, round(hertz / 31.25)].argmax().item() == pytest.approx(mel_bin(hertz, settings), abs=1)


@pytest.mark.slow
def test_the_pictures_of_the_docs_come_from_the_committed_files(tmp_path: Path) -> None:
    pictures = redraw.pictures(argparse.Namespace(mednist=None, fsdd=None))
    for name in ("answers.png", "forgetting.png", "latency.png", "bench_serve_prompts.png", "bench_eval.png"):
        pictures[name](tmp_path / name)
        assert (tmp_path / name).stat().st_size > 10_000


def test_no_picture_of_the_docs_is_larger_than_150_kib() -> None:
    pictures = list((redraw.ROOT / "docs" / "pictures").glob("*.png"))
    assert pictures
    assert [picture.name for picture in pictures if picture.stat().st_size > 150 * 1024] == []
