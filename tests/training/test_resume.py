"""Stopped at any moment and resumed, a run ends as if it had never been stopped."""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from making.checkpoints import same_bytes
from making.commands import train_arguments
from making.images import write_npz
from making.models import TINY
from pfm.cli import pfm, run
from pfm.data.decoding import BEFORE
from pfm.data.images import ImagePreprocess
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.runlog import RunLog

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["pfm.commands.train", "transformers.models.vit.modeling_vit", "peft", "medmnist"])
STEM = "colours_seed_42"
KILLS = int(os.environ.get("PFM_KILLS", "16"))
SEED = int(os.environ.get("PFM_SEED", "0"))  # of when they are killed
PATIENCE = 900.0  # seconds for what takes a few
# slow enough to be hit inside an epoch, and with everything that has a state
OPTIONS = ["--epochs", "4", "--batch_size", "8", "--shift", "1", "--ema", "0.9", "--optimizer", "adamw",
           "--weight_decay", "0.1", "--schedule", "cosine", "--warmup", "0.2", "--eval_batch_size", "16"]  # fmt: skip


@dataclass(frozen=True)
class Fate:
    """What becomes of a run once it has logged a step.

    Attributes:
        number: signal that it gets.
        after_s: how long after that, at least; whatever it does at that moment.
    """

    step: int
    number: int
    after_s: float = 0.0

    def comes(self) -> None:
        """In the run's own process, so that no machine is too slow to meet the step."""
        write, is_met = RunLog.write, False

        def written(log: RunLog, event: str, **numbers: Any) -> None:
            nonlocal is_met
            write(log, event, **numbers)
            if numbers.get("step", 0) >= self.step and not is_met:
                is_met = True
                if self.after_s:
                    signal.setitimer(signal.ITIMER_REAL, self.after_s)  # SIGALRM, which nobody here handles
                else:
                    os.kill(os.getpid(), self.number)

        RunLog.write = written  # type: ignore[method-assign]


def train_in_child(arguments: list[str], fate: Fate | None) -> None:
    """What a forked child runs: the command, with a preset of the tests' own."""
    from pfm.backbones.family import PRESETS

    torch.set_num_threads(1)
    PRESETS["tiny"] = {**TINY, "hidden_dropout_prob": 0.1}
    if fate is not None:
        fate.comes()
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        raise SystemExit(run(pfm, arguments))


def finish(arguments: list[str], fate: Fate | None = None) -> int:
    """Run a command to its end; its exit code, below 0 where a signal ended it."""
    process: Any = FORKSERVER.Process(target=train_in_child, args=(arguments, fate))
    process.start()
    try:
        process.join(PATIENCE)
        assert process.exitcode is not None
        assert process.exitcode == 0 or fate is not None
        return process.exitcode
    finally:
        process.kill()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and the folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("resume")
    data = write_npz(folder / "colours.npz", train=100, test=30)
    finish(train_arguments(data, folder / "whole", *OPTIONS))
    return data, folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_leaves_and_the_run_goes_on(
    whole: tuple[Path, Path], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    data, reference = whole
    arguments = train_arguments(data, tmp_path, *OPTIONS, "--log_every", "1")
    assert finish(arguments, Fate(17, number)) == code
    assert load_checkpoint(tmp_path / f"{STEM}_resume.pt").step in (17, 18)  # at once, or after the step it was in
    finish([*arguments, "--resume", "auto"])
    assert not (tmp_path / f"{STEM}_resume.pt").exists()
    assert same_bytes(load_checkpoint(tmp_path / f"{STEM}_4.pt"), load_checkpoint(reference / f"{STEM}_4.pt"))
    accuracies = [json.loads((folder / f"{STEM}_accuracies.json").read_text()) for folder in (tmp_path, reference)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
def test_killed_inside_an_epoch_it_goes_on_from_the_last_saved_step(whole: tuple[Path, Path], tmp_path: Path) -> None:
    data, reference = whole
    arguments = train_arguments(data, tmp_path, *OPTIONS, "--log_every", "1", "--save_steps", "3")
    assert finish(arguments, Fate(20, signal.SIGKILL)) == -signal.SIGKILL
    assert load_checkpoint(tmp_path / f"{STEM}_resume.pt").step in range(16, 21)
    finish([*arguments, "--resume", "auto"])
    assert same_bytes(load_checkpoint(tmp_path / f"{STEM}_4.pt"), load_checkpoint(reference / f"{STEM}_4.pt"))


@pytest.mark.slow
def test_a_finished_epoch_is_resumed_by_its_path(whole: tuple[Path, Path], tmp_path: Path) -> None:
    data, reference = whole
    finish([*train_arguments(data, tmp_path, *OPTIONS), "--resume", str(reference / f"{STEM}_2.pt")])
    assert same_bytes(load_checkpoint(tmp_path / f"{STEM}_4.pt"), load_checkpoint(reference / f"{STEM}_4.pt"))
    assert not (tmp_path / f"{STEM}_2.pt").exists()


@pytest.mark.slow(seconds=40)
def test_kills_at_random_leave_no_broken_file_and_the_same_bytes_at_the_end(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    """Killed while training, evaluating and saving; every step is saved, so most kills hit a save."""
    data, _ = whole
    epochs = KILLS  # of 13 steps
    options = [*OPTIONS, "--epochs", str(epochs), "--save_steps", "1", "--keep", "2", "--best_metric", "full_bank"]
    finish(train_arguments(data, tmp_path / "whole", *options))
    folder = tmp_path / "killed"
    arguments = train_arguments(data, folder, *options, "--resume", "auto")
    chance = random.Random(SEED)
    kills = 0
    furthest = 0
    for _ in range(KILLS):
        fate = Fate(furthest + chance.randint(0, 12), signal.SIGALRM, after_s=chance.uniform(0.0001, 0.05))
        kills += finish(arguments, fate) == -signal.SIGALRM
        for path in folder.glob("*.pt"):
            load_checkpoint(path).build_model()
        furthest = max((load_checkpoint(path).step for path in folder.glob("*.pt")), default=0)
        if furthest >= 13 * epochs - 20:
            break
    assert kills >= KILLS // 2  # the quicker the machine, the fewer it takes to the end
    finish(arguments)
    assert same_bytes(
        load_checkpoint(folder / f"{STEM}_{epochs}.pt"), load_checkpoint(tmp_path / "whole" / f"{STEM}_{epochs}.pt")
    )
    best = [load_checkpoint(place / f"{STEM}_best.pt") for place in (folder, tmp_path / "whole")]
    assert same_bytes(*best)
    assert not list(folder.glob(".*.part"))
    assert [path.name for path in sorted(folder.glob(f"{STEM}_[0-9]*.pt"))] == [
        f"{STEM}_{n}.pt" for n in (epochs - 1, epochs)
    ]


# --- what is refused ------------------------------------------------------------------------------


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert run(pfm, arguments) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--lr", "0.02"], "had --lr 0.01, now it is 0.02"),
        (["--readout", "prompt"], "had --readout cls"),
        (["--batch_size", "5"], "took 32 examples a step over all processes, now it would take 5"),
        (["--shift", "2"], "had --shift 0, now it is 2"),
    ],
)
def test_another_run_is_not_gone_on_with(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    arguments = train_arguments(npz, tmp_path / "out", "--eval_every", "0")
    assert run(pfm, arguments) == 0
    assert message in refused([*arguments, "--epochs", "3", "--resume", "auto", *change], capsys)


@pytest.mark.usefixtures("preset")
def test_other_data_are_refused(npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pfm, train_arguments(npz, tmp_path / "out", "--eval_every", "0")) == 0
    write_npz(npz, train=80)
    said = refused(train_arguments(npz, tmp_path / "out", "--resume", "auto", "--epochs", "3"), capsys)
    assert "not the one the run began with" in said


@pytest.mark.usefixtures("preset")
def test_a_damaged_file_is_passed_over_by_auto_and_refused_by_its_path(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(npz, tmp_path / "out", "--eval_every", "0", "--epochs", "3")
    assert run(pfm, arguments) == 0
    damaged = tmp_path / "out" / f"{STEM}_3.pt"
    damaged.write_bytes(damaged.read_bytes()[:-200])
    capsys.readouterr()
    assert "is not a checkpoint, or is damaged" in refused([*arguments, "--resume", str(damaged)], capsys)
    assert run(pfm, [*arguments, "--resume", "auto"]) == 0
    said = capsys.readouterr().out
    assert "passed over" in said
    assert f"resumed {tmp_path / 'out' / f'{STEM}_2.pt'}" in said


@pytest.mark.usefixtures("preset")
def test_auto_in_an_empty_folder_starts_anew_and_a_finished_run_says_so(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(npz, tmp_path / "out", "--eval_every", "0", "--resume", "auto")
    assert run(pfm, arguments) == 0
    assert "starting anew" in capsys.readouterr().out
    assert run(pfm, arguments) == 0
    assert "nothing is left to train" in capsys.readouterr().out


@pytest.mark.usefixtures("preset")
def test_a_run_does_not_go_on_from_an_erased_checkpoint(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(npz, tmp_path / "out", "--eval_every", "0")
    assert run(pfm, arguments) == 0
    erased = tmp_path / "erased.pt"
    assert run(pfm, ["forget", "--ckpt", str(tmp_path / "out" / f"{STEM}_2.pt"), "--classes", "1",
                     "--out", str(erased)]) == 0  # fmt: skip
    capsys.readouterr()
    assert "erased.pt is erased of 1, and of the optimizer's state" in refused(
        [*arguments, "--resume", str(erased)], capsys
    )
    assert run(pfm, ["forget", "--classes", "1", "--in_place", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    assert f"'1' was erased from {tmp_path / 'out'}" in refused(
        [*arguments, "--resume", "auto", "--epochs", "3"], capsys
    )


@pytest.mark.usefixtures("preset")
def test_more_epochs_go_on_with_a_constant_rate_only(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = train_arguments(npz, tmp_path / "out", "--eval_every", "0")
    assert run(pfm, arguments) == 0
    assert run(pfm, [*arguments, "--resume", "auto", "--epochs", "3"]) == 0
    straight = train_arguments(npz, tmp_path / "straight", "--eval_every", "0", "--epochs", "3")
    assert run(pfm, straight) == 0
    assert same_bytes(*(load_checkpoint(tmp_path / name / f"{STEM}_3.pt") for name in ("out", "straight")))
    cosine = train_arguments(npz, tmp_path / "cosine", "--eval_every", "0", "--schedule", "cosine")
    assert run(pfm, cosine) == 0
    assert "had --epochs 2, now it is 3" in refused([*cosine, "--resume", "auto", "--epochs", "3"], capsys)


def test_a_run_that_began_with_other_rules_of_decoding_is_not_gone_on_from(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for name, level in (("a", 40), ("b", 200)):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (12, 12 + i % 2), (level, level, i)).save(
                    tmp_path / "photos" / split / name / f"{i}.png"
                )
    arguments = train_arguments(f"imagefolder:{tmp_path / 'photos'}", tmp_path / "run", "--epochs", "1")
    assert run(pfm, arguments) == 0
    path = tmp_path / "run" / "photos_seed_42_1.pt"
    begun = load_checkpoint(path)
    assert isinstance(begun.preprocess, ImagePreprocess)
    old_run = {**begun.run, "data": {name: begun.run["data"][name] for name in ("dataset", "data_type")}}
    save_checkpoint(path, replace(begun, preprocess=replace(begun.preprocess, decoding=BEFORE), run=old_run))
    capsys.readouterr()
    assert run(pfm, [*arguments, "--epochs", "2", "--resume", "auto"]) == 2
    told = capsys.readouterr().err
    assert "decoded by other rules when the run began (size None, now 8; decode full, now fast; background None" in told
