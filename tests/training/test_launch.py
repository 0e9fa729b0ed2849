"""`accelerate launch pfm/train.py`: the same command, the same numbers."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from making.images import write_npz
from making.launching import ROOT, environment, kill_all, launch
from making.logs import log_records
from pfm.cli import pfm, run
from pfm.model.checkpoint import load_checkpoint

OPTIONS = ["--model_name", "scratch:vit_digits", "--epochs", "2", "--batch_size", "16", "--lr", "0.003"]


def accelerate_command(config: str, dataset: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", f"accelerate_configs/{config}.yaml",
            "--main_process_port", "0", "pfm/train.py",
            "--dataset", str(dataset), "--save_dir", str(folder), *OPTIONS, *more]  # fmt: skip


def accelerate(config: str, dataset: Path, folder: Path, *more: str) -> str:
    return launch(accelerate_command(config, dataset, folder, *more))


def train_options(dataset: Path, folder: Path) -> list[str]:
    return ["train", "--dataset", str(dataset), "--save_dir", str(folder), *OPTIONS]


def alone(dataset: Path, folder: Path, *more: str) -> None:
    """The same in this process, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert run(pfm, [*train_options(dataset, folder), *more, "--cpu"]) == 0
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_launching_the_script_gives_the_numbers_of_the_command(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz")
    alone(data, tmp_path / "a")
    accelerate("cpu", data, tmp_path / "b")
    first, second = (load_checkpoint(tmp_path / name / "colours_seed_42_2.pt") for name in "ab")
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    accuracies = [json.loads((tmp_path / n / "colours_seed_42_accuracies.json").read_text()) for n in "ab"]
    assert accuracies[0] == accuracies[1]


def losses(folder: Path) -> list[float]:
    records = log_records(folder / "colours_seed_42_log.jsonl")
    return [record["loss"] for record in records if record["event"] == "step"]


# everything that could tell one process from two: dropout, augmentation, skewed weights, an uneven last batch
EQUAL = ["--optimizer", "adamw", "--shift", "1", "--hflip", "--balance", "weights", "--log_every", "1", "--ema", "0.9",
         "--max_grad_norm", "1", "--eval_batch_size", "4"]  # fmt: skip


NONE = ["--readout", "prompt", "--wrong_target", "none"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [[], ["--tune", "lora", *NONE], ["--decoys", "2", *NONE], ["--tune", "prompts", "--others_gradient", "0.3"]],
    ids=["paper", "lora", "decoys", "share"],
)
def test_two_processes_of_half_a_batch_are_one_process_of_the_whole(tmp_path: Path, more: list[str]) -> None:
    data = write_npz(tmp_path / "colours.npz", train=90, test=23)
    alone(data, tmp_path / "one", *EQUAL, *more)
    said = accelerate("cpu_2", data, tmp_path / "two", *EQUAL, *more, "--batch_size", "8")
    assert "2 process(es) on cpu" in said
    assert len(re.findall("^saved ", said, re.MULTILINE)) == 1
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)  # rounding, over 12 steps
    first, second = (load_checkpoint(tmp_path / name / "colours_seed_42_2.pt") for name in ("one", "two"))
    for name, tensor in first.tensors.items():
        # Adam divides by the gradient's own size, so where that is all rounding, the step of lr = 3e-3 is too;
        # a key's bias has no gradient at all, since the softmax takes it out
        difference = (tensor - second.tensors[name]).abs()
        assert difference.max() < 1e-3, name
        assert difference.median() < 1e-6 or name.endswith("k_proj.bias"), name
    # every test sample counted once, in every mode: the same fractions of 23
    accuracies = [json.loads((tmp_path / n / "colours_seed_42_accuracies.json").read_text()) for n in ("one", "two")]
    assert accuracies[0] == accuracies[1]
    for values in accuracies[1].values():
        assert all(abs(value * 23 - round(value * 23)) < 1e-5 for value in values)


@pytest.mark.slow
def test_two_processes_evaluate_modes_and_subsets_as_one_does(tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz", train=40, test=23)
    alone(data, tmp_path, "--epochs", "1", "--eval_every", "0")
    command = ["eval", "--ckpt", str(tmp_path / "colours_seed_42_1.pt"), "--eval_batch_size", "4", "--cpu"]
    assert run(pfm, [*command, "--save_dir", str(tmp_path / "one")]) == 0
    script = tmp_path / "evaluate.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(ROOT)!r}); from pfm.cli import main; main()")
    launch([sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2.yaml",
            "--main_process_port", "0", str(script), *command, "--save_dir", str(tmp_path / "two")])  # fmt: skip
    first, second = (
        json.loads((tmp_path / name / "colours_seed_42_evaluation.json").read_text()) for name in ("one", "two")
    )
    assert first == second
    for entry in second["subsets"]:
        for removed, forget in zip(entry["subsets"], entry["forget"], strict=True):
            samples = sum(number % 4 in removed for number in range(23))
            assert abs(forget * samples - round(forget * samples)) < 1e-5


# A group of gloo has two threads, and each notes without a lock, in one string of the group, what it has just finished
# (torch 2.12.1, ProcessGroupGloo::runLoop). A name of more than 15 letters lies on the heap, and is freed twice where
# both note at once: `ALLGATHER_COALESCED`, which is how a sharded tensor is gathered. Neither DDP over gloo nor FSDP2
# over NCCL does that, so the group of these tests has one thread.
SHARDED = """
import sys; sys.path.insert(0, {root!r})
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed import ProcessGroupGloo, distributed_c10d
import pfm.training.run
from pfm.cli import main

class OneThread(ProcessGroupGloo):
    def __init__(self, store, rank, size, timeout):
        options = self._Options()
        options._devices, options._timeout, options._threads = [self.create_default_device()], timeout, 1
        super().__init__(store, rank, size, options)

distributed_c10d.ProcessGroupGloo = OneThread

def start(device, config, **more):
    # on a CPU Accelerate does not look at a plugin: it is told once it has started
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["Block"],
        reshard_after_forward={reshard}, state_dict_type="FULL_STATE_DICT")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    AcceleratorState.is_fsdp2 = property(lambda self: True)
    accelerator.state.fsdp_plugin = plugin
    return accelerator

pfm.training.run.start_accelerator = start
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("reshard", [True, False])
def test_a_sharded_model_trains_evaluates_saves_and_resumes_as_a_whole_one(tmp_path: Path, reshard: bool) -> None:
    """FSDP2 on two processes over gloo, as the `fsdp2` and `zero2` configs set it up on GPUs."""
    data = write_npz(tmp_path / "colours.npz", train=90, test=23)
    more = [*EQUAL, "--gradient_accumulation_steps", "2", "--best_metric", "full_bank"]
    alone(data, tmp_path / "one", *more, "--batch_size", "8")
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED.format(root=str(ROOT), reshard=reshard))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               str(script), *train_options(data, tmp_path / "two"), *more, "--cpu", "--batch_size", "4"]  # fmt: skip
    if reshard:
        launch([*command, "--epochs", "1"])
        assert "resumed" in launch([*command, "--resume", "auto"])
    else:
        launch(command)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-5)
    first, second = (load_checkpoint(tmp_path / name / "colours_seed_42_2.pt") for name in ("one", "two"))
    for name, tensor in first.tensors.items():
        assert second.tensors[name].shape == tensor.shape
        assert (tensor - second.tensors[name]).abs().median() < 1e-6 or name.endswith("k_proj.bias"), name
        assert second.averaged[name].shape == second.moments[name]["exp_avg"].shape == tensor.shape
    accuracies = [json.loads((tmp_path / n / "colours_seed_42_accuracies.json").read_text()) for n in ("one", "two")]
    assert accuracies[0] == accuracies[1]
    assert (tmp_path / "two" / "colours_seed_42_best.pt").exists()


STOPPED = ["--epochs", "1", "--log_every", "1", "--save_steps", "3", "--eval_every", "0", "--batch_size", "2"]


@pytest.mark.slow(seconds=80)
def test_two_processes_that_were_stopped_inside_an_epoch_end_with_the_same_bytes(tmp_path: Path) -> None:
    """Stopped by SIGTERM to the launcher, then killed, then left alone."""
    data = write_npz(tmp_path / "colours.npz", train=1600, test=23)
    accelerate("cpu_2", data, tmp_path / "whole", *STOPPED)
    folder = tmp_path / "stopped"
    checkpoint = folder / "colours_seed_42_1.pt"

    def stop_after(step: int, number: signal.Signals) -> str:
        process = subprocess.Popen(
            accelerate_command("cpu_2", data, folder, *STOPPED, "--resume", "auto"), cwd=ROOT, env=environment(),
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        log = folder / "colours_seed_42_log.jsonl"
        deadline = time.monotonic() + 400
        while len(log_records(log)) < step:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        if number == signal.SIGKILL:
            kill_all(process)  # the workers are in sessions of their own
        else:
            os.kill(process.pid, number)  # the launcher, which tells its workers
        said = process.communicate(timeout=900)[0]
        assert not checkpoint.exists()
        return said

    said = stop_after(20, signal.SIGTERM)
    assert "stopped by signal 15" in said
    assert "--resume auto" in said
    stopped_at = load_checkpoint(folder / "colours_seed_42_resume.pt").step
    assert stopped_at >= 19
    stop_after(stopped_at + 40, signal.SIGKILL)
    assert load_checkpoint(folder / "colours_seed_42_resume.pt").step > stopped_at
    # another global batch is refused; one process with twice the batch goes on with the same run
    other = [*train_options(data, folder), *STOPPED, "--cpu", "--resume"]
    assert run(pfm, [*other, "auto"]) == 2
    half_way = str(shutil.copy(folder / "colours_seed_42_resume.pt", tmp_path / "half_way.pt"))
    assert run(pfm, [*other, half_way, "--batch_size", "4", "--save_dir", str(tmp_path / "alone")]) == 0

    accelerate("cpu_2", data, folder, *STOPPED, "--resume", "auto")
    first, second, third = (
        load_checkpoint(tmp_path / name / "colours_seed_42_1.pt").tensors for name in ("whole", "stopped", "alone")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all((first[name] - third[name]).abs().median() < 1e-4 for name in first if "k_proj.bias" not in name)


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
