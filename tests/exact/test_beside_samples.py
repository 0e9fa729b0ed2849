"""What is beside a checkpoint that samples are taken out of, and would keep them or bring them back."""

import dataclasses
import json
import os
from pathlib import Path

import pytest

from making.commands import Refuse
from making.exact import fit, image_data
from pfm.cli import pfm, run
from pfm.errors import TrainingError
from pfm.forgetting import ledger
from pfm.forgetting.figures import OF_FIT
from pfm.forgetting.sample_files import erase_samples
from pfm.forgetting.samples import Removal
from pfm.model.checkpoint import load_checkpoint
from pfm.storage import write_json
from pfm.training import fit as fitting
from pfm_export.erasing import erase_everywhere

STEM = "colours_seed_3"


def forget(*options: str | Path) -> int:
    return run(pfm, ["forget", "--group", "camera2", "--in_place", *map(str, options)])


def test_another_name_of_the_file_on_its_disk_would_keep_the_samples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(image_data(), tmp_path / "run")
    path = tmp_path / "run" / f"{STEM}_1.pt"
    os.link(path, tmp_path / "other.pt")
    before = path.read_bytes()
    assert "a hard link" in Refuse(capsys)("forget", "--group", "camera2", "--in_place", path)
    assert path.read_bytes() == before
    assert forget(path, "--allow_unknown") == 0
    assert f"{path} had another name on its disk" in capsys.readouterr().out


def test_what_a_killed_process_left_half_written_goes_with_the_samples(tmp_path: Path) -> None:
    fit(image_data(), tmp_path)
    part = tmp_path / f".{STEM}_1.pt.abcd1234.part"
    part.write_bytes((tmp_path / f"{STEM}_1.pt").read_bytes()[:-999])
    assert forget(tmp_path) == 0
    assert not part.exists()


@pytest.mark.parametrize("what", ["group", "sample", "class"])
def test_what_the_run_said_of_all_samples_goes_with_some_of_them(what: str, tmp_path: Path) -> None:
    """Whoever has the rest could try, with a digest of before, whether samples of theirs were there."""
    fit(image_data(), tmp_path)
    path, log, summary = (tmp_path / f"{STEM}_{name}" for name in ("1.pt", "log.jsonl", "run.json"))
    before = load_checkpoint(path).exact["digest"]
    assert before in log.read_text()
    assert before in summary.read_text()
    if what == "class":
        erase_everywhere([path], ["blue"])
    else:
        removal = Removal(groups=["camera2"]) if what == "group" else Removal(samples=["image9.png"])
        erase_samples(path, removal)
    told = log.read_text() + summary.read_text()
    assert not [name for name in OF_FIT if f'"{name}"' in told]
    assert json.loads(summary.read_text())["config"]["model"]["readout"] == "ridge"
    assert ledger.read(tmp_path / "ledger.jsonl")[-1]["figures"] == [log.name, summary.name]
    assert before not in (tmp_path / "ledger.jsonl").read_text()


def test_figures_of_a_class_that_lost_all_its_samples_go_too(tmp_path: Path) -> None:
    fit(image_data(), tmp_path)
    blue = [f"image{i}.png" for i, label in enumerate(image_data().train.labels.tolist()) if label == 2]
    accuracies = tmp_path / f"{STEM}_accuracies.json"
    write_json(accuracies, {"full_bank": [1.0], "class_1": [1.0], "class_2": [0.5]})
    removed, _ = erase_samples(tmp_path / f"{STEM}_1.pt", Removal(samples=blue))
    assert removed.classes == ("blue",)
    assert list(json.loads(accuracies.read_text())) == ["full_bank", "class_1"]


def test_a_run_in_a_folder_that_samples_were_erased_from_is_refused(tmp_path: Path) -> None:
    """The ledger does not say whose they were, so that nothing can tell whether it would bring them back."""
    fit(image_data(), tmp_path)
    path = tmp_path / f"{STEM}_1.pt"
    erase_samples(path, Removal(groups=["camera2"]), target=tmp_path / "copy.pt")
    fit(image_data(), tmp_path)  # a copy without them changes nothing of the run
    assert forget(path) == 0
    left = path.read_bytes()
    with pytest.raises(TrainingError, match="groups or samples were erased from"):
        fit(image_data(), tmp_path)
    assert path.read_bytes() == left
    told = tmp_path / "ledger.jsonl"
    told.write_bytes(b"".join(told.read_bytes().splitlines(keepends=True)[:-1]))  # killed before it was done
    with pytest.raises(TrainingError, match="groups or samples were erased from"):
        fit(image_data(), tmp_path)


@pytest.mark.parametrize("what", ["class", "group"])
def test_a_fit_that_was_going_on_when_something_was_erased_does_not_write_it_again(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(image_data(), tmp_path)
    path = tmp_path / f"{STEM}_1.pt"
    summed_over = fitting.summed_over

    def erasing_meanwhile(*args, **kwargs):
        if what == "class":
            erase_everywhere([path], ["blue"])
        else:
            erase_samples(path, Removal(groups=["camera2"]))
        return summed_over(*args, **kwargs)

    monkeypatch.setattr(fitting, "summed_over", erasing_meanwhile)
    with pytest.raises(TrainingError, match="erased from"):
        fit(image_data(), tmp_path)
    left = load_checkpoint(path)
    assert "blue" not in left.classes.names or "camera2" not in left.exact["groups"]
    assert f'"{OF_FIT[0]}"' not in (tmp_path / f"{STEM}_log.jsonl").read_text()


def test_a_file_whose_groups_were_not_stored_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = image_data()
    fit(data, tmp_path / "a")
    fit(dataclasses.replace(data, train=dataclasses.replace(data.train, groups=None)), tmp_path / "b")
    assert forget(tmp_path) == 3
    assert "has no groups stored" in capsys.readouterr().out
    assert forget(tmp_path / "b") == 2
