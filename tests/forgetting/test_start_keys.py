"""The key that a class's prompt started from goes with the class; where its file is not there, nothing is erased."""

import dataclasses
import stat
from pathlib import Path

import pytest

from making.checkpoints import trained_state
from making.commands import Refuse
from pfm.cli import pfm, run
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


def test_a_key_file_that_others_may_read_is_not_looked_into(
    secret: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path, keys = secret
    keys.chmod(0o644)
    name = load_checkpoint(path).classes.names[0]
    assert run(pfm, ["forget", "--class", name, "--in_place", str(path)]) == 3
    assert f"{keys}" in capsys.readouterr().out
