"""Processes of a host share what one of them decoded, and a run on more data than memory is the same run."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from making.launching import ROOT, environment, kill_all
from pfm.data.sharing import Host
from pfm.errors import DataError
from pfm.model.checkpoint import load_checkpoint

STEM = "photos_seed_42"


def write_photos(folder: Path, count: int) -> Path:
    random = np.random.default_rng(0)
    for split, images in (("train", count), ("test", 6)):
        for number in range(images):
            place = folder / split / "abc"[number % 3]
            place.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 90, (60 + number % 9, 48, 3)).astype(np.uint8)
            pixels[:, :, number % 3] += 100
            Image.fromarray(pixels).save(place / f"{number}.jpg")
    return folder


def test_an_error_of_the_process_that_decodes_is_one_of_all() -> None:
    told: list[object] = []

    def post(value: object) -> object:
        told.append(value)
        return value

    def fail() -> None:
        raise DataError("cannot decode 7.jpg")

    with pytest.raises(DataError, match=r"7\.jpg"):
        Host(rank=0, size=2, exchange=post).lead(fail)
    with pytest.raises(DataError, match=r"7\.jpg"):
        Host(rank=1, size=2, exchange=lambda _: told[0]).lead(fail)
    assert Host(rank=0, size=2, exchange=post).lead(lambda: 5) == 5
    assert Host(rank=1, size=2, exchange=lambda _: told[1]).lead(fail) == 5  # type: ignore[func-returns-value]
    assert Host().first(lambda: 3) == 3


@pytest.mark.slow(seconds=65)
def test_a_set_ten_times_the_memory_is_trained_on_by_two_processes_killed_and_resumed(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos", 240)
    options = ("--data_memory", "4KB", "--epochs", "1", "--batch_size", "4", "--log_every", "1", "--save_steps", "3")

    def command(folder: Path, *more: str) -> list[str]:
        return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2.yaml",
                "--main_process_port", "0", "pfm/train.py", "--dataset", f"imagefolder:{data}",
                "--save_dir", str(folder), "--model_name", "scratch:vit_digits", *options, *more]  # fmt: skip

    def finish(folder: Path, *more: str) -> str:
        done = subprocess.run(
            command(folder, *more), cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    said = finish(tmp_path / "whole")
    assert (
        "in a temporary file without a name, once for all processes of a host (--data_on auto; --data_memory 4KB"
        in said
    )
    process = subprocess.Popen(
        command(tmp_path / "killed"), cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
    )
    state = tmp_path / "killed" / f"{STEM}_resume.pt"
    deadline = time.monotonic() + 300
    while not state.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    kill_all(process)
    finish(tmp_path / "killed", "--resume", "auto")
    finish(tmp_path / "again", "--data_on", "decode", "--data_workers", "1")
    whole, killed, again = (
        load_checkpoint(tmp_path / n / f"{STEM}_1.pt").tensors for n in ("whole", "killed", "again")
    )
    for name, tensor in whole.items():
        assert torch.equal(tensor, killed[name]), name
        assert torch.equal(tensor, again[name]), name
