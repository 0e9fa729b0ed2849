"""The key that a class's prompt started from goes with the class; where its file is not there, nothing is erased."""

import dataclasses
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from making.checkpoints import trained_state
from making.commands import Refuse
from pfm.cli import pfm, run
from pfm.errors import CheckpointError
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.starts.keys import keys_from, read_keys


@pytest.fixture
def secret(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint whose prompts started from keys, and the file of them, in another folder."""
    state = trained_state()
    (tmp_path / "vault").mkdir()
    keys = tmp_path / "vault" / "keys"
    keys_from(keys, state.classes.names)
    path = tmp_path / "run" / "model.pt"
    path.parent.mkdir()
    save_checkpoint(path, dataclasses.replace(state, start="secret", init_key=str(keys)))
    return path, keys


def test_an_erasure_takes_the_key_of_the_class_wherever_its_file_is(
    secret: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, keys = secret
    gone, *kept = load_checkpoint(path).classes.names
    key = read_keys(keys)[gone].hex()
    assert run(pfm, ["forget", "--class", gone, "--in_place", str(path.parent)]) == 0
    said = capsys.readouterr().out
    assert f"erased             {keys}" in said
    assert "infer_best, which compares logits of different forwards, answers" in said
    assert sorted(read_keys(keys)) == sorted(kept)
    assert key not in keys.read_text()
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert load_checkpoint(path).classes.names == tuple(kept)
    assert run(pfm, ["forget", "--class", gone, "--in_place", str(path.parent)]) == 0  # the same once more
    assert sorted(read_keys(keys)) == sorted(kept)


def test_a_file_of_keys_that_is_not_there_stops_the_erasure(
    secret: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, keys = secret
    before, name = path.read_bytes(), load_checkpoint(path).classes.names[0]
    keys.unlink()
    assert f"keys in {keys}, which is not there" in Refuse(capsys)("forget", "--class", name, "--in_place", path)
    assert path.read_bytes() == before
    assert run(pfm, ["forget", "--class", name, "--in_place", str(path), "--allow_unknown"]) == 0
    assert name not in load_checkpoint(path).classes.names


def test_a_number_is_a_position_in_the_model_and_not_in_the_file_of_keys(secret: tuple[Path, Path]) -> None:
    path, keys = secret
    names = load_checkpoint(path).classes.names
    assert run(pfm, ["forget", "--classes", "2", "--in_place", str(path.parent), str(keys.parent)]) == 0
    assert load_checkpoint(path).classes.names == names[:2] + names[3:]
    assert names[2] not in read_keys(keys)


@pytest.mark.parametrize("damage", [lambda path: path.chmod(0o644), lambda path: path.write_text("no keys\n")])
def test_a_file_of_keys_that_cannot_be_erased_from_stops_the_erasure(
    secret: tuple[Path, Path], capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object]
) -> None:
    path, keys = secret
    before, name = path.read_bytes(), load_checkpoint(path).classes.names[0]
    damage(keys)
    assert f"keys in {keys}, which was not looked into" in Refuse(capsys)("forget", "--class", name, "--in_place", path)
    assert path.read_bytes() == before


def test_a_checkpoint_cannot_lead_an_erasure_to_another_artifact(tmp_path: Path) -> None:
    state = trained_state()
    save_checkpoint(tmp_path / "mine" / "model.pt", state)
    theirs = tmp_path / "theirs" / "x.pt"
    save_checkpoint(theirs, dataclasses.replace(state, start="secret", init_key=str(tmp_path / "mine" / "model.pt")))
    before = (tmp_path / "mine" / "model.pt").read_bytes()
    run(pfm, ["forget", "--class", "blue", "--in_place", str(theirs), "--allow_unknown"])
    assert (tmp_path / "mine" / "model.pt").read_bytes() == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["model.pt"]


@pytest.mark.parametrize("field", ["start", "init_key"])
def test_a_checkpoint_that_says_nothing_sensible_of_its_start_is_damaged(tmp_path: Path, field: str) -> None:
    wrong: dict[str, Any] = {field: 7}
    save_checkpoint(tmp_path / "x.pt", dataclasses.replace(trained_state(), **wrong))
    with pytest.raises(CheckpointError, match=f"{field} is '7'"):
        load_checkpoint(tmp_path / "x.pt")
