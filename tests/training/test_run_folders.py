"""Where a run's data is, whose files stand in its folder, and what a rerun replaces."""

import json
import shlex
from pathlib import Path

import pytest

from making.bundles import make_bundle
from making.commands import Refuse, train_arguments
from making.images import write_npz
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.errors import ConfigError
from pfm.evaluation.earlier import check_same_data
from pfm.model.checkpoint import load_checkpoint
from pfm.training.earlier import replaced
from pfm.training.saving import RunFiles, _was_moved, next_commands
from pfm_export.serving.bundle import Bundle


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("imagefolder:photos", "imagefolder:{here}/photos"),
        ("audiofolder:../clips", "audiofolder:{above}/clips"),
        ("scans.npz", "{here}/scans.npz"),
        ("./table", "{here}/table"),
        ("there", "{here}/there"),
        ("someone/animals", "someone/animals"),
        ("digits", "digits"),
        ("bloodmnist", "bloodmnist"),
        ("imagefolder:/data/photos", "imagefolder:/data/photos"),
    ],
)
def test_a_path_of_data_is_stored_whole_and_a_name_as_it_is(
    given: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("there", "digits", "bloodmnist"):  # folders that are called like data sets do not matter
        (tmp_path / "here" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    placed = DataConfig(dataset=given).placed()
    assert placed.dataset == stored.format(here=tmp_path / "here", above=tmp_path)
    assert placed.placed() == placed
    assert placed.short_name == DataConfig(dataset=given).short_name


def test_a_run_is_found_again_from_another_folder_or_says_what_is_missing(
    tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse = Refuse(capsys)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "one")
    write_npz(Path("colours.npz"))
    train = train_arguments("colours.npz", Path("out"), "--epochs", "1")
    assert run(pfm, train) == 0
    checkpoint = tmp_path / "one" / "out" / "colours_seed_42_1.pt"
    before = checkpoint.read_bytes()
    capsys.readouterr()
    assert run(pfm, train) == 0
    said = capsys.readouterr().out
    assert "holds an earlier run of this name, whose files are replaced one by one: colours_seed_42_1.pt" in said
    assert checkpoint.read_bytes() == before

    monkeypatch.chdir(tmp_path / "two")
    assert run(pfm, ["eval", "--ckpt", str(checkpoint), "--cpu", "--max_subsets", "1"]) == 0
    assert list(Path().iterdir()) == []  # the figures stand beside the checkpoint
    figures = json.loads((checkpoint.parent / "colours_seed_42_evaluation.json").read_text())
    assert figures["dataset"] == str(tmp_path / "one" / "colours.npz")

    write_npz(Path("colours.npz"), num_classes=3)
    text = refuse(*train_arguments("colours.npz", checkpoint.parent))
    assert "on another data set of this name" in text
    assert f"({tmp_path}/one/colours.npz; now it is {tmp_path}/two/colours.npz)" in text
    text = refuse("eval", "--ckpt", checkpoint, "--cpu", "--dataset", write_npz(tmp_path / "two" / "colours.npz"))
    assert "give another --save_dir" in text
    assert checkpoint.read_bytes() == before

    (tmp_path / "one" / "colours.npz").rename(tmp_path / "colours.npz")
    text = refuse("eval", "--ckpt", checkpoint, "--cpu")
    assert f"trained on {tmp_path}/one/colours.npz, which is not there" in text
    assert "--dataset" in text
    moved = [*train_arguments(tmp_path / "colours.npz", checkpoint.parent), "--epochs", "2", "--resume", "auto"]
    assert run(pfm, moved) == 0
    assert load_checkpoint(checkpoint.with_name("colours_seed_42_2.pt")).run["data"]["dataset"] == str(
        tmp_path / "colours.npz"
    )


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        ("imagefolder:{old}/photos", "imagefolder:{new}/photos", True),
        ("imagefolder:photos", "imagefolder:{new}/photos", True),  # of a version that stored it as it was typed
        ("imagefolder:{there}/photos", "imagefolder:{new}/photos", False),
        ("imagefolder:{old}/photos", "imagefolder:{new}/others", False),
        ("imagefolder:{old}/photos", "audiofolder:{new}/photos", False),
        ("digits", "{new}/digits", False),
        ("digits", "bloodmnist", False),
    ],
)
def test_data_that_was_moved_is_the_same_and_other_data_of_its_name_is_not(
    before: str, now: str, is_same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name for name in ("old", "new", "there")}
    for name in ("new", "there"):
        (tmp_path / name / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "new")
    assert _was_moved("data", "dataset", before.format(**places), now.format(**places)) is is_same
    assert not _was_moved("train", "lr", 1.0, 2.0)


@pytest.mark.parametrize("evidence", ["log", "summary", "nothing"])
def test_whose_files_they_are_is_read_from_whatever_a_run_left(evidence: str, tmp_path: Path) -> None:
    files = RunFiles(tmp_path, "photos_seed_42")
    data = DataConfig(dataset=f"imagefolder:{tmp_path}/b/photos")
    assert replaced(files, data) == ""
    files.accuracies.write_text("{}")
    config = {"config": {"data": {"dataset": f"imagefolder:{tmp_path}/a/photos"}}}
    if evidence == "nothing":
        assert "whose files are replaced" in replaced(files, data)
        return
    if evidence == "log":
        files.log.write_text(json.dumps({"event": "start", **config}) + '\n{"event": "st')
    else:
        files.summary.write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"another data set of this name .*such as photos_seed_42_accuracies\.json"):
        replaced(files, data)
    assert "replaced" in replaced(files, DataConfig(dataset=f"imagefolder:{tmp_path}/a/photos"))


def test_figures_of_an_older_version_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "x_evaluation.json").write_text("{}")
    check_same_data(tmp_path / "x", "imagefolder:/x")


def test_a_bundle_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bundle(tmp_path / "bundle")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    bundle = Bundle.open("bundle")
    monkeypatch.chdir(tmp_path / "elsewhere")
    name = bundle.classes.names[0]
    assert name not in bundle.erase([name]).classes.names


def test_the_commands_that_are_to_be_typed_next_take_a_path_with_blanks() -> None:
    line = next_commands(Path("run 1/my photos_seed_42_1.pt"))
    assert shlex.split(line)[:5] == ["next:", "pfm", "eval", "--ckpt", "run 1/my photos_seed_42_1.pt"]
