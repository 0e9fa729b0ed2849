"""What is learned later makes the readout of one fit on all."""

import dataclasses
from pathlib import Path

import pytest
import torch

from making.exact import fit, image_data, only
from pfm.classes import UNKNOWN, ClassList
from pfm.device import Processes
from pfm.errors import ClassNameError, ConfigError
from pfm.forgetting.erase import erase
from pfm.model.readouts.ridge import memory_of
from pfm.training.learning import learn_on

DATA = image_data()
HERE = Processes(device=torch.device("cpu"))
FIRST = torch.arange(len(DATA.train)) < 30


@pytest.mark.parametrize("memory", ["features", "sums"])
def test_samples_and_classes_learned_later_give_the_fit_on_all(memory: str, tmp_path: Path) -> None:
    whole = fit(DATA, tmp_path / "all", memory=memory)
    part = fit(only(DATA, FIRST & (DATA.train.labels != 3)), tmp_path / "part", memory=memory)
    later = learn_on(part, only(DATA, ~(FIRST & (DATA.train.labels != 3))), HERE)
    assert later.new_classes == ("grey",)
    assert later.checkpoint.classes == whole.classes
    assert later.checkpoint.exact["digest"] == whole.exact["digest"]
    assert torch.equal(later.checkpoint.tensors["ridge.weight"], whole.tensors["ridge.weight"])


def test_what_was_forgotten_can_be_learned_again(tmp_path: Path) -> None:
    whole = fit(DATA, tmp_path)
    again = learn_on(erase(whole, ["blue"]), only(DATA, DATA.train.labels == 2), HERE).checkpoint
    assert again.classes == whole.classes
    assert again.erased == ()
    assert again.exact["digest"] == whole.exact["digest"]
    assert set(memory_of(again).groups) == set(memory_of(whole).groups)


def test_a_repeated_sample_is_said_so_and_counts_twice(tmp_path: Path) -> None:
    whole = fit(DATA, tmp_path)
    said: list[str] = []
    learned = learn_on(whole, DATA, HERE, said.append)
    assert learned.repeated == len(DATA.train)
    assert "count twice" in said[0]
    assert sum(memory_of(learned.checkpoint).counts) == 2 * len(DATA.train)


def test_a_readout_without_memory_or_of_steps_cannot_learn_on(tmp_path: Path) -> None:
    nothing = fit(DATA, tmp_path, memory="none")
    with pytest.raises(ConfigError, match="nothing was kept"):
        learn_on(nothing, DATA, HERE)
    with pytest.raises(ConfigError, match="step by step"):
        learn_on(
            dataclasses.replace(
                nothing,
                model=dataclasses.replace(
                    nothing.model, readout="cls", width=2048, features="backbone", memory="features", tune="full"
                ),
            ),
            DATA,
            HERE,
        )


def test_a_class_called_unknown_is_not_learned_where_that_is_an_answer(tmp_path: Path) -> None:
    named = dataclasses.replace(DATA, classes=ClassList.from_names(["red", "green", "blue", UNKNOWN]))
    part = only(DATA, DATA.train.labels != 3)
    with pytest.raises(ClassNameError, match="rename the class"):
        learn_on(fit(part, tmp_path / "answers", abstain=0.05), named, HERE)
    assert learn_on(fit(part, tmp_path / "has none"), named, HERE).new_classes == (UNKNOWN,)
