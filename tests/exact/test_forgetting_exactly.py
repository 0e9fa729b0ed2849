"""What is taken out of a solved head leaves, number for number, the fit that never had it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from making.commands import Refuse
from making.exact import fit, image_data, only
from making.files import files
from pfm.classes import ClassList
from pfm.errors import ClassNameError, ConfigError
from pfm.forgetting.erase import erase
from pfm.forgetting.samples import Removal, remove
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm.model.readouts.ridge import memory_of

DATA = image_data()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return fit(DATA, tmp_path_factory.mktemp("full"))


def same(first: Checkpoint, second: Checkpoint) -> bool:
    """Equal digests, equal rows byte for byte."""
    assert first.classes.names == second.classes.names
    rows = ("ridge.weight", "ridge.bias")
    is_equal = all(first.tensors[n].numpy().tobytes() == second.tensors[n].numpy().tobytes() for n in rows)
    return is_equal and first.exact["digest"] == second.exact["digest"] == memory_of(first).digest


def test_a_class_is_forgotten_as_if_it_had_never_been_there(full: Checkpoint, tmp_path: Path) -> None:
    assert same(erase(full, ["blue"]), fit(only(DATA, DATA.train.labels != 2), tmp_path))
    one_less = (DATA.train.labels != 2) & (torch.arange(48) != 4)
    assert not same(erase(full, ["blue"]), fit(only(DATA, one_less), tmp_path))


def test_three_classes_are_forgotten_in_any_order(full: Checkpoint, tmp_path: Path) -> None:
    first = erase(erase(full, ["red"]), ["grey"])
    second = erase(erase(full, ["grey"]), ["red"])
    assert same(first, second)
    assert same(first, fit(only(DATA, (DATA.train.labels == 1) | (DATA.train.labels == 2)), tmp_path))


def test_a_group_is_forgotten_across_classes(full: Checkpoint, tmp_path: Path) -> None:
    removed = remove(full, Removal(groups=["camera2", "camera5"]))
    is_left = torch.tensor([group not in ("camera2", "camera5") for group in DATA.train.groups or ()])
    assert same(removed.checkpoint, fit(only(DATA, is_left), tmp_path))
    assert removed.num_samples == int((~is_left).sum())
    assert "camera2" not in memory_of(removed.checkpoint).groups


def test_a_sample_is_forgotten_by_its_name(full: Checkpoint, tmp_path: Path) -> None:
    removed = remove(full, Removal(samples=["image9.png"]))
    assert removed.num_samples == 1
    assert same(removed.checkpoint, fit(only(DATA, torch.arange(48) != 9), tmp_path))


def test_a_sample_is_forgotten_with_its_copy_by_its_file(full: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "sent_in.png"
    Image.fromarray(DATA.train.inputs[0].permute(1, 2, 0).numpy()).save(file)
    removed = remove(full, Removal(samples=[str(file)]))
    assert removed.num_samples == 2
    assert same(removed.checkpoint, fit(only(DATA, (torch.arange(48) != 0) & (torch.arange(48) != 47)), tmp_path))


def test_names_that_are_no_valid_text_are_forgotten_like_others(tmp_path: Path) -> None:
    names = tuple(f"image{i}.png" if i != 9 else "b\udcff/9.png" for i in range(48))
    classes = ClassList.from_names(["red", "green", "b\udcff", "grey"])
    data = dataclasses.replace(DATA, classes=classes, train=dataclasses.replace(DATA.train, names=names))
    full = fit(data, tmp_path)
    assert remove(full, Removal(samples=["b\udcff/9.png"])).num_samples == 1
    assert same(erase(full, ["b\udcff"]), fit(only(data, DATA.train.labels != 2), tmp_path))


def test_a_sample_that_is_not_there_is_said_so(full: Checkpoint, tmp_path: Path) -> None:
    file = tmp_path / "other.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file)
    with pytest.raises(ClassNameError, match="not in the memory"):
        remove(full, Removal(samples=[str(file)]))


def test_a_small_backbone_forgets_exactly_too(preset: str, tmp_path: Path) -> None:
    full = fit(DATA, tmp_path, model_name=preset)
    assert same(erase(full, ["green"]), fit(only(DATA, DATA.train.labels != 1), tmp_path, model_name=preset))
    removed = remove(full, Removal(groups=["camera0"])).checkpoint
    is_left = torch.tensor([group != "camera0" for group in DATA.train.groups or ()])
    assert same(removed, fit(only(DATA, is_left), tmp_path, model_name=preset))


def test_sums_alone_forget_classes_and_nothing_smaller(full: Checkpoint, tmp_path: Path) -> None:
    sums = fit(DATA, tmp_path, memory="sums")
    assert sums.exact["digest"] == full.exact["digest"]
    assert same(erase(sums, ["blue"]), erase(full, ["blue"]))
    with pytest.raises(ConfigError, match="only where features are kept"):
        remove(sums, Removal(groups=["camera2"]))


@pytest.mark.parametrize("option", ["--centre_prompts", "--on_test_data"])
def test_what_is_about_prompts_is_refused_where_there_are_none(
    option: str, full: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "model.pt", full)
    said = Refuse(capsys)("forget", "--class", "blue", "--ckpt", tmp_path / "model.pt", option)
    assert f"{option}: {tmp_path / 'model.pt'} has no prompts" in said
    assert files(tmp_path) == [tmp_path / "model.pt"]


def test_without_a_memory_the_head_is_not_exact_after_an_erasure(tmp_path: Path) -> None:
    nothing = fit(DATA, tmp_path, memory="none")
    assert nothing.exact["is_solved"]
    assert not erase(nothing, ["blue"]).exact["is_solved"]
    assert not nothing.is_personal


def test_a_file_that_holds_samples_is_for_its_owner_only(full: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(path, full)
    assert path.stat().st_mode & 0o777 == 0o600
    assert memory_of(load_checkpoint(path)).digest == full.exact["digest"]
    save_checkpoint(tmp_path / "y.pt", dataclasses.replace(full, memory={}))
    assert (tmp_path / "y.pt").stat().st_mode & 0o777 != 0o600


def test_nothing_of_a_forgotten_sample_is_in_the_bytes(full: Checkpoint, tmp_path: Path) -> None:
    memory = memory_of(full)
    assert memory.rows is not None
    place = int((memory.rows.values == memory.rows.values[3]).all(axis=1).argmax())
    own = memory.rows.values[place].tobytes()
    path = tmp_path / "x.pt"
    save_checkpoint(path, full)
    assert own in path.read_bytes()
    name = memory.classes[memory.rows.labels[place]]
    save_checkpoint(path, erase(full, [name]))
    assert own not in path.read_bytes()
