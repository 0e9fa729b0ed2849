"""`accelerate launch pfm/train.py`: the same command, the same numbers, and every config file is one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_npz

from pfm.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "accelerate_configs").glob("*.yaml"))
OPTIONS = ["--model_name", "scratch:vit_digits", "--epochs", "2", "--batch_size", "16", "--lr", "0.003"]


def launch(command: list[str], *, threads: int = 1) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def accelerate(config: str, dataset: Path, folder: Path, *more: str) -> str:
    return launch(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml",
         "pfm/train.py", "--dataset", str(dataset), "--save_dir", str(folder), *OPTIONS, *more]
    )  # fmt: skip


@pytest.mark.slow
def test_launching_the_script_gives_the_numbers_of_the_command(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz")
    launch([sys.executable, "-c", "from pfm.cli import main; main()", "train", "--dataset", str(data),
            "--save_dir", str(tmp_path / "a"), "--cpu", *OPTIONS])  # fmt: skip
    accelerate("cpu", data, tmp_path / "b")
    first, second = (load_checkpoint(tmp_path / name / "colours_seed_42_2.pt") for name in "ab")
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    accuracies = [json.loads((tmp_path / n / "colours_seed_42_accuracies.json").read_text()) for n in "ab"]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
def test_two_processes_train_speak_once_and_count_every_test_sample_once(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz", test=23)
    said = accelerate("cpu_2", data, tmp_path / "two")
    assert "2 process(es) on cpu" in said
    assert len(re.findall("^saved ", said, re.MULTILINE)) == 1
    accuracies = json.loads((tmp_path / "two" / "colours_seed_42_accuracies.json").read_text())
    for values in accuracies.values():
        for accuracy in values:
            assert abs(accuracy * 23 - round(accuracy * 23)) < 1e-5  # a whole number of 23 samples
    load_checkpoint(tmp_path / "two" / "colours_seed_42_2.pt").build_model()


@pytest.mark.slow
def test_the_script_runs_the_checkout_it_lies_in(tmp_path: Path) -> None:
    """From elsewhere, with a stale copy of the package first on the path."""
    stale = tmp_path / "stale" / "pfm"
    stale.mkdir(parents=True)
    (stale / "__init__.py").write_text("raise SystemExit('the stale copy was imported')")
    environment = {**os.environ, "PYTHONPATH": str(stale.parent)}
    done = subprocess.run(
        [sys.executable, str(ROOT / "pfm" / "train.py"), "--help"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--wrong_target" in done.stdout


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_file_is_accepted_by_accelerate_and_opens_with_its_command(path: Path) -> None:
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

    config = load_config_from_file(str(path))
    assert isinstance(config, ClusterConfig)
    text = path.read_text()
    assert f"accelerate launch --config_file accelerate_configs/{path.name} pfm/train.py" in text
    assert "# Expect:" in text
    assert yaml.safe_load(text)["num_processes"] == config.num_processes
    assert f"{config.num_processes} process(es)" in text or config.num_processes == 1


def test_no_config_asks_for_multi_cpu_which_starts_one_process_in_silence() -> None:
    for path in CONFIGS:
        assert yaml.safe_load(path.read_text())["distributed_type"] != "MULTI_CPU"
