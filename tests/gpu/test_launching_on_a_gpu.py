"""`accelerate launch` on one GPU: a process of its own, NCCL, and a model that FSDP2 shares out to one process."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from making.images import write_npz
from making.launching import ROOT
from making.logs import log_records
from pfm.model.checkpoint import load_checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
OPTIONS = ["--model_name", "scratch:vit_digits", "--epochs", "2", "--batch_size", "32", "--lr", "0.003",
           "--log_every", "1", "--tune", "full"]  # fmt: skip
# config of Accelerate -> more for the launcher
LAUNCHES = {"gpu": [], "gpu_8": ["--num_processes", "1"], "fsdp2_8": ["--num_processes", "1"],
            "zero2_8": ["--num_processes", "1"]}  # fmt: skip
ON_CPU = {"gpu": "cpu"}  # what stands in for a config where there is no GPU


@dataclass(frozen=True)
class Launched:
    code: int
    said: str
    folder: Path

    def losses(self) -> list[float]:
        records = log_records(self.folder / "colours_seed_42_log.jsonl")
        return [record["loss"] for record in records if record["event"] == "step"]


@pytest.fixture(scope="module")
def launched(device: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Launched]:
    """One run of each config, side by side: most of it is importing."""
    folder = tmp_path_factory.mktemp("launched")
    data = write_npz(folder / "colours.npz", train=64, test=16)
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    running = {}
    for config, more in LAUNCHES.items():
        file = config if device == "cuda" else ON_CPU.get(config)
        if file is None:
            continue
        command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file",
                   f"accelerate_configs/{file}.yaml", "--main_process_port", "0", *more, "pfm/train.py",
                   "--dataset", str(data), "--save_dir", str(folder / config), *OPTIONS]  # fmt: skip
        running[config] = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    found = {}
    for config, process in running.items():
        said, _ = process.communicate(timeout=110)
        found[config] = Launched(process.returncode, said, folder / config)
    return found


@pytest.mark.parametrize("config", LAUNCHES)
def test_a_launched_run_trains_on_the_gpu(device: str, launched: dict[str, Launched], config: str) -> None:
    if config not in launched:
        pytest.skip("there is nothing like it on the CPU")
    run = launched[config]
    assert run.code == 0, run.said[-3000:]
    place = "cuda:0, precision bf16" if device == "cuda" else "cpu"
    assert f"1 process(es) on {place}" in run.said
    assert len(run.losses()) == 4
    # shared out or not, in bf16: numbers of 8 bits
    assert run.losses() == pytest.approx(launched["gpu"].losses(), rel=0.03)
    checkpoint = load_checkpoint(run.folder / "colours_seed_42_2.pt")
    assert checkpoint.step == 4
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
