"""Killed and resumed, a run leaves files with the same bytes as one that was never stopped."""

import dataclasses
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from making.checkpoints import trained_state
from making.launching import ROOT, environment, kill_all
from making.logs import last_step
from pfm.model.checkpoint import checkpoint_bytes, load_checkpoint, save_checkpoint

STEM = "digits_seed_42"
OPTIONS = ["--dataset", "digits", "--model_name", "scratch:vit_digits", "--epochs", "3", "--lr", "8e-3", "--cpu",
           "--schedule", "cosine", "--ema", "0.9", "--save_steps", "2", "--log_every", "3",
           "--best_metric", "full_bank", "--save_dir", "run"]  # fmt: skip
KILLS = 2
RUNS = int(os.environ.get("PFM_RUNS", "1"))


def test_a_checkpoint_that_was_loaded_is_written_with_the_same_bytes(tmp_path: Path) -> None:
    """pickle knows strings by their identity, which a load changes."""
    state = trained_state()
    run = {"model": {"readout": "cls"}, "train": {"best_metric": "full_bank", "seed": 42}, "data": ("full_bank",)}
    history = {"full_bank": [0.5], "".join(["class", "_2"]): [0.25]}
    given = dataclasses.replace(state, run=run, progress={"history": history, "metric": "class_2"})
    save_checkpoint(tmp_path / "a.pt", given)
    content = (tmp_path / "a.pt").read_bytes()
    assert checkpoint_bytes(load_checkpoint(tmp_path / "a.pt")) == content
    # the same object in several places, or an equal one in each
    apart = json.loads(json.dumps(given.progress))
    assert checkpoint_bytes(dataclasses.replace(given, progress=apart)) == content


def command(processes: int) -> list[str]:
    script = [str(ROOT / "pfm" / "train.py"), *OPTIONS, "--batch_size", str(128 // processes)]
    if processes == 1:
        return [sys.executable, *script]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *script]


def start(folder: Path, processes: int, *more: str) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "said").open("ab") as said:
        return subprocess.Popen([*command(processes), *more], cwd=folder, env=environment(), stdout=said, stderr=said)


def finish(folder: Path, processes: int, *more: str) -> None:
    process = start(folder, processes, *more)
    try:
        assert process.wait(1800) == 0, (folder / "said").read_text()
    finally:
        kill_all(process)


def steps_done(folder: Path) -> int:
    return last_step(folder / "run" / f"{STEM}_log.jsonl")


def kill_at(folder: Path, processes: int, step: int, after_s: float) -> None:
    """Start a run, or let it go on, and kill it once it has logged a step."""
    process = start(folder, processes, "--resume", "auto")
    try:
        deadline = time.monotonic() + 400
        while steps_done(folder) < step and process.poll() is None:
            assert time.monotonic() < deadline, (folder / "said").read_text()
            time.sleep(0.005)
        time.sleep(after_s)
    finally:
        kill_all(process)


def hashes(folder: Path) -> dict[str, str]:
    """Of what a run goes on from, and what it reports; its log has times in it."""
    files = [*(folder / "run").glob("*.pt"), folder / "run" / f"{STEM}_accuracies.json"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


@pytest.mark.slow(seconds=50)
@pytest.mark.parametrize(("processes", "runs"), [(1, RUNS), (2, RUNS)])
def test_killed_runs_end_with_the_files_of_one_that_was_left_alone(processes: int, runs: int, tmp_path: Path) -> None:
    """Each is killed at two places of its own choice, inside an epoch, while evaluating or while saving."""
    whole = tmp_path / "whole"
    finish(whole, processes)
    expected = hashes(whole)
    assert set(expected) == {*(f"{STEM}_{n}.pt" for n in (1, 2, 3, "best")), f"{STEM}_accuracies.json"}
    chance = random.Random(processes)
    for number in range(runs):
        folder, step = tmp_path / str(number), 0
        for _ in range(KILLS):
            step = min(step + chance.randint(4, 16), 33)
            kill_at(folder, processes, step, chance.random() * 0.3)
        finish(folder, processes, "--resume", "auto")
        assert "resumed" in (folder / "said").read_text()
        assert hashes(folder) == expected
