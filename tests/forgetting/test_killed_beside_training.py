"""Erasures over nested folders, killed at any moment while a run trains beside them: nothing of the class is left."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from making.bundles import make_bundle
from making.checkpoints import trained_state
from making.commands import train_arguments
from making.images import write_npz
from making.models import TINY
from pfm.cli import pfm, run
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm_export.contents import open_content
from pfm_export.serving.manifest import MANIFEST

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["pfm.commands.train", "pfm_export.erasing", "pfm_export.commands.forget", "peft"])
KILLS = int(os.environ.get("PFM_KILLS", "5"))  # 60 take a quarter of an hour
SEED = int(os.environ.get("PFM_SEED", "0"))  # of when they are killed
PATIENCE = 600.0  # seconds for what takes a few
CHILDREN: list[Any] = []
LIVE = Path("a") / "live"  # where the run trains
FORGET = ["forget", "--in_place", "--classes", "blue", "--yes", "--allow_unknown"]


def die_after(count: int) -> None:
    """Kill this process as soon as it has put the `count`th file of weights in its place."""
    replace = os.replace
    left = [count]

    def dying(source: str | Path, target: str | Path) -> None:
        replace(source, target)
        left[0] -= Path(target).suffix in (".pt", ".safetensors") and LIVE.name not in Path(target).parts
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = dying


def in_child(arguments: list[str], started: str, dies_after: int | None = None) -> None:
    """What a forked child runs: a command of ours with a preset of the tests' own; errors go into a file."""
    from pfm.backbones.family import PRESETS

    if dies_after is not None:
        die_after(dies_after)
    torch.set_num_threads(1)
    PRESETS["tiny"] = dict(TINY)
    with open(os.devnull, "w") as nowhere, open(f"{started}.said", "w") as said:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(said.fileno(), 2)
        Path(started).touch()
        raise SystemExit(run(pfm, arguments))


def said(started: Path) -> str:
    """What a child said on standard error."""
    return Path(f"{started}.said").read_text()


def start(arguments: list[str], started: Path, dies_after: int | None = None) -> Any:
    process = FORKSERVER.Process(target=in_child, args=(arguments, str(started), dies_after))
    process.start()
    CHILDREN.append(process)
    return process


@pytest.fixture(autouse=True)
def nobody_outlives_the_test() -> Iterator[None]:
    yield
    while CHILDREN:
        CHILDREN.pop().kill()


def wait_for(is_so: Any, process: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert process.is_alive() or is_so(), f"it ended with {process.exitcode}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints and bundles within each other, three deep."""
    root = tmp_path_factory.mktemp("nested")
    for number, place in enumerate(("a", "a/b", "a/b/c", "d")):
        for epoch in (1, 2):
            save_checkpoint(root / place / f"x_{epoch}.pt", trained_state(seed=number * 10 + epoch))
    make_bundle(root / "a" / "b" / "bundle")
    make_bundle(root / "d" / "bundle", "prompt")
    make_bundle(root / "d" / "bundle" / "inner")
    save_checkpoint(root / "d" / "bundle" / "inner" / "x.pt", trained_state(seed=77))
    return root


def rows_of_blue(root: Path) -> list[bytes]:
    """The bytes that no file may hold afterwards: the class's prompts, as every file of `nested` has them."""
    found = []
    for path in root.rglob("*.pt"):
        found.append(load_checkpoint(path).tensors["bank.prompts"][2].numpy().tobytes())
    return found


def check_gone(root: Path, rows: list[bytes]) -> None:
    """Look into every file, hidden ones included."""
    for path in sorted(root.rglob("*")):
        if path.is_dir():
            continue
        content = path.read_bytes()
        assert not any(row in content for row in rows), path
        assert path.suffix != ".part", path
        if path.suffix == ".pt":
            opened = open_content(path)
            assert "blue" not in [entry.name for entry in opened.classes], path
            assert opened.problems == (), path
        if path.name == LEDGER:
            ledger.erasures(ledger.read(path), path)
        if path.name == MANIFEST:
            opened = open_content(path.parent)
            assert "blue" not in [entry.name for entry in opened.classes], path
            assert opened.problems == (), path


@pytest.mark.slow(seconds=70)
def test_killed_erasures_beside_a_training_run_leave_nothing_of_the_class(nested: Path, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz")
    rows = rows_of_blue(nested)
    draw = random.Random(SEED)
    started = tmp_path / "started"

    root = Path(shutil.copytree(nested, tmp_path / "timed"))
    process = start([*FORGET, str(root)], started)
    wait_for(started.exists, process)
    began = time.monotonic()
    process.join(PATIENCE)
    assert process.exitcode == 0, said(started)
    duration = time.monotonic() - began
    check_gone(root, rows)

    killed = partial = 0
    for number in range(4 * KILLS):
        if killed == KILLS:
            break
        root = Path(shutil.copytree(nested, tmp_path / str(number)))
        options = [
            "--class_names",
            "red,green,blue,grey",
            "--epochs",
            "100000",
            "--batch_size",
            "8",
            "--eval_every",
            "0",
        ]
        trains, completes = tmp_path / f"training_{number}", tmp_path / f"again_{number}"
        training = start(train_arguments(data, root / LIVE, *options), trains)
        wait_for(lambda live=root / LIVE: any(live.glob("*.pt")), training)

        started.unlink(missing_ok=True)
        if number % 2:  # at any moment of all
            erasing = start([*FORGET, str(root)], started)
            wait_for(started.exists, erasing)
            time.sleep(draw.uniform(0.2, 1) * duration)
            erasing.kill()
        else:  # between two files, which is a small part of it
            erasing = start([*FORGET, str(root)], started, draw.randint(1, 6))
        erasing.join(PATIENCE)
        was_killed = erasing.exitcode == -signal.SIGKILL
        killed += was_killed
        duration *= 1 if was_killed else 0.9
        files = [path for path in root.rglob("*.pt") if LIVE.name not in path.parts]
        done = sum("blue" not in load_checkpoint(path).classes.names for path in files)
        partial += 0 < done < len(files)

        again = start([*FORGET, str(root)], completes)
        again.join(PATIENCE)
        assert again.exitcode == 0, f"round {number}: {said(completes)}"
        training.join(PATIENCE)  # it finds that its class was erased, and stops
        assert training.exitcode == 2, f"round {number}: {said(trains)}"
        check_gone(root, rows)
        shutil.rmtree(root)
    assert killed == KILLS
    assert partial > 0  # some files were erased from, others not yet
