"""One folder: one run at a time, and nothing that was erased from it is ever written into it again."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from making.checkpoints import trained_state
from making.commands import Refuse, train_arguments
from making.files import files, full_disk
from making.images import write_npz
from making.launching import ROOT, environment
from pfm.classes import ClassList
from pfm.cli import pfm, run
from pfm.errors import FolderInUseError, StorageError, TrainingError
from pfm.forgetting import ledger
from pfm.forgetting.files import announce_in_place
from pfm.holding import LEDGER, LOCK, RUN, erased_from, run_in, running, writing
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.storage import replacing
from pfm.training.evaluating import Evaluations
from pfm_export.erasing import erase_everywhere
from pfm_export.survey import Survey, survey

COLOURS = ClassList.from_names(["red", "green", "blue", "grey"])
NAMES = ["--class_names", "red,green,blue,grey"]
pytestmark = pytest.mark.usefixtures("preset")


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    return Refuse(capsys)


def arguments(npz: Path, folder: Path, *more: str) -> list[str]:
    return train_arguments(npz, folder, *NAMES, "--eval_every", "0", *more)


def erase_after_epoch(monkeypatch: pytest.MonkeyPatch, number: int, folder: Path, name: str) -> None:
    """An erasure while a run is going on, after one of its epochs (from 0) and before that is saved."""

    def after_epoch(self: Any, epoch: int) -> None:
        if epoch == number:
            erase_everywhere([folder], name)

    monkeypatch.setattr(Evaluations, "after_epoch", after_epoch)


def test_a_run_that_has_no_room_to_begin_is_refused_in_one_line_and_leaves_nothing(
    npz: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfm.holding.write_whole", full_disk)
    assert f"cannot write {tmp_path / 'out' / RUN}: No space left" in refuse(*arguments(npz, tmp_path / "out"))
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_run_whose_class_was_erased_stops_before_it_writes_again(
    npz: Path, tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch, epoch: int
) -> None:
    """It wrote the class again, in every epoch that followed; after epoch 0 there is not even a file yet."""
    folder = tmp_path / "out"
    erase_after_epoch(monkeypatch, epoch, folder, "blue")
    said = refuse(*arguments(npz, folder, "--epochs", "4"))
    assert f"'blue' was erased from {folder}" in said
    left = sorted(folder.glob("*.pt"))
    assert [path.name for path in left] == [f"colours_seed_42_{number}.pt" for number in range(1, epoch + 1)]
    assert all(load_checkpoint(path).classes.names == ("red", "green", "grey") for path in left)
    assert not (folder / RUN).exists()
    before = files(folder)
    for more in ([], ["--resume", "auto"], ["--seed", "7"]):  # the same command once more, and a new run
        assert "'blue' was erased from" in refuse(*arguments(npz, folder, *more))
    assert files(folder) == before


def test_a_run_on_other_classes_goes_on_and_a_copy_without_a_class_stops_nobody(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    other = tmp_path / "out" / "other.pt"
    state = trained_state()
    names = ClassList.from_names(["a", "b", "c", "d"])
    save_checkpoint(other, state.__class__(**{**vars(state), "classes": names}))
    with monkeypatch.context() as patch:
        erase_after_epoch(patch, 0, folder, "b")
        assert run(pfm, arguments(npz, folder, "--epochs", "1")) == 0
    assert load_checkpoint(other).classes.names == ("a", "c", "d")
    ckpt = folder / "colours_seed_42_1.pt"
    assert run(pfm, ["forget", "--ckpt", str(ckpt), "--class", "blue"]) == 0
    assert run(pfm, arguments(npz, folder, "--epochs", "2", "--resume", "auto")) == 0
    assert set(erased_from(folder)[0]) == {"b"}


def test_two_runs_in_one_folder_are_refused(npz: Path, tmp_path: Path, refuse: Refuse) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    with running(folder, COLOURS):
        before = files(folder)
        said = refuse(*arguments(npz, folder))
        assert f"another run writes into {folder}; wait for its end" in said
        assert files(folder) == before
        assert run_in(folder) == COLOURS
    assert run_in(folder) is None
    assert files(folder) == []


def test_whoever_only_looks_keeps_no_run_out_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a busy machine makes it look, and beside others who look."""
    with running(tmp_path, ClassList.from_names(["red"])):
        content = (tmp_path / RUN).read_bytes()
    (tmp_path / RUN).write_bytes(content)  # of a run that was killed
    naps = 0
    with (tmp_path / RUN).open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        assert run_in(tmp_path) is None

        def nap(_: float) -> None:
            nonlocal naps
            naps += 1
            if naps == 40:
                fcntl.flock(looking, fcntl.LOCK_UN)

        monkeypatch.setattr("pfm.holding.time.sleep", nap)
        with running(tmp_path, COLOURS):
            assert run_in(tmp_path) == COLOURS
    assert naps == 40


def test_nobody_waits_for_ever_for_who_only_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a process that was stopped meanwhile."""
    monkeypatch.setattr("pfm.holding._LOOKING_S", 0.0)
    (tmp_path / RUN).touch()
    with (tmp_path / RUN).open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        with pytest.raises(FolderInUseError), running(tmp_path, COLOURS):
            pass


def test_a_run_that_ends_while_its_folder_is_erased_from_leaves_what_was_found_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "model.pt", trained_state())
    with contextlib.ExitStack() as training:
        training.enter_context(running(tmp_path, COLOURS))

        def announced(*given: Any, **more: Any) -> None:
            training.close()
            announce_in_place(*given, **more)

        monkeypatch.setattr("pfm.forgetting.files.announce_in_place", announced)
        erase_everywhere([tmp_path], "blue")
    assert load_checkpoint(tmp_path / "model.pt").classes.names == ("red", "green", "grey")
    assert (tmp_path / RUN).read_bytes() == b""
    assert run_in(tmp_path) is None
    with running(tmp_path, ClassList.from_names(["red"])):
        pass
    assert not (tmp_path / RUN).exists()


def test_what_a_run_deletes_while_it_is_erased_from_is_missed_by_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run ends, and an epoch is not kept, after the folder was looked through and before it is locked."""
    for epoch in (1, 2):
        save_checkpoint(tmp_path / f"colours_{epoch}.pt", trained_state(epoch))
    with contextlib.ExitStack() as training:
        training.enter_context(running(tmp_path, COLOURS))

        def looked(*given: Any) -> Survey:
            found = survey(*given)
            training.close()
            (tmp_path / "colours_2.pt").unlink()
            return found

        monkeypatch.setattr("pfm_export.survey.survey", looked)
        assert run(pfm, ["forget", "--in_place", "--class", "blue", str(tmp_path)]) == 0
    assert "colours_1.pt" in capsys.readouterr().out
    assert [path.name for path in files(tmp_path)] == [LOCK, "colours_1.pt", LEDGER]


def test_a_run_that_dies_lets_go_of_its_folder(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom pathlib import Path\n"
        "from pfm.classes import ClassList\nfrom pfm.holding import running\n"
        f"with running(Path({str(tmp_path)!r}), ClassList.from_names(['red'])):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert died.returncode == -signal.SIGKILL
    assert (tmp_path / RUN).exists()
    assert run_in(tmp_path) is None
    with running(tmp_path, COLOURS):
        assert run_in(tmp_path) == COLOURS


def test_an_erasure_waits_for_what_is_being_written_and_then_nothing_more_is(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with writing(tmp_path, COLOURS.names):
        save_checkpoint(path, trained_state())
    erase_everywhere([path], "blue")
    with pytest.raises(TrainingError, match="'blue' was erased"), writing(tmp_path, COLOURS.names):
        path.unlink()
    assert path.exists()
    with writing(tmp_path, ["red", "green"]):
        pass


def test_the_sweep_deletes_what_the_dead_left_and_nothing_that_is_being_written(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model.pt", trained_state())
    with replacing(tmp_path / "model_2.pt") as file:
        file.write(b"half")
        dead = tmp_path / "sub" / ".model.pt.abcdefgh.part"
        dead.parent.mkdir()
        dead.write_bytes(b"half of a model")
        (tmp_path / ".film.part").write_bytes(b"\x80")  # a file of somebody else's
        found, _ = erase_everywhere([tmp_path], "blue")
        assert not dead.exists()
        live = [seen.path for seen in found.closed if "another process is writing it" in seen.how]
        assert len(live) == 1
        assert live[0].exists()
    assert (tmp_path / "model_2.pt").read_bytes() == b"half"
    assert (tmp_path / ".film.part").exists()


def test_a_ledger_that_is_broken_stops_a_run(npz: Path, tmp_path: Path, refuse: Refuse) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / LEDGER).write_text("{}\n")
    assert "line 1: this is not a record of an erasure" in refuse(*arguments(npz, folder))
    (folder / LEDGER).unlink()
    (folder / LOCK).mkdir()
    with pytest.raises(StorageError, match="not a regular file"), writing(folder, ["red"]):
        pass


def test_what_an_erasure_of_a_folder_with_a_run_records(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"

    def after_epoch(self: Any, epoch: int) -> None:
        if epoch == 1:
            assert run(pfm, ["forget", "--in_place", "--class", "blue", str(folder)]) == 0

    monkeypatch.setattr(Evaluations, "after_epoch", after_epoch)
    assert run(pfm, arguments(npz, folder, "--epochs", "3")) == 2
    said = capsys.readouterr().out
    assert f"stops soon         {folder / RUN}" in said
    assert "a training run is going on there" in said
    record = ledger.read(folder / LEDGER)[-1]
    assert [(entry["file"], entry["kind"]) for entry in record["files"]] == [
        (RUN, "run"), ("colours_seed_42_1.pt", "checkpoint"),
    ]  # fmt: skip


@pytest.mark.slow
def test_two_processes_stop_when_a_class_of_theirs_is_erased(tmp_path: Path) -> None:
    data, folder = write_npz(tmp_path / "colours.npz"), tmp_path / "out"
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2.yaml",
        "--main_process_port", "0", "pfm/train.py", "--dataset", str(data), "--save_dir", str(folder),
        "--model_name", "scratch:vit_digits", "--epochs", "500", "--batch_size", "16", "--eval_every", "0", *NAMES,
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        while not (folder / "colours_seed_42_2.pt").exists():
            assert process.poll() is None
            time.sleep(0.1)
        assert run_in(folder) == COLOURS
        erase_everywhere([folder], "blue")
        said, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    assert b"'blue' was erased from" in said
    assert all("blue" not in load_checkpoint(path).classes.names for path in folder.glob("*.pt"))
    assert run_in(folder) is None
