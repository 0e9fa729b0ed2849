"""A launcher that dies leaves no workers behind, and what they had done is saved."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from making.images import write_npz
from making.launching import ROOT, environment
from making.logs import last_step
from pfm.model.checkpoint import load_checkpoint
from pfm.training.launcher import is_launcher

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
LAUNCHERS = {
    "accelerate, one process": [*ACCELERATE, "accelerate_configs/cpu.yaml"],
    "accelerate, two processes": [*ACCELERATE, "accelerate_configs/cpu_2.yaml"],
    "torchrun": TORCHRUN,
}


@contextlib.contextmanager
def sleeping(*arguments: str) -> Iterator[int]:
    """A process with these words in its command line; its id."""
    program = "import time; print(flush=True); time.sleep(3600)"
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="command lines of others are read from /proc")
def test_launchers_are_known_by_their_command_line() -> None:
    with sleeping("/venv/bin/accelerate", "launch") as first, sleeping("/venv/bin/torchrun") as second:
        assert is_launcher(first)
        assert is_launcher(second)
    with sleeping("bash") as shell:
        assert not is_launcher(shell)  # a run in the background outlives the shell that started it


def wait_until(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.slow
@pytest.mark.parametrize("name", LAUNCHERS)
@pytest.mark.parametrize("at_step", [0, 5])
def test_workers_leave_when_their_launcher_is_killed(name: str, at_step: int, tmp_path: Path) -> None:
    """Killed outright: in training, where the run is saved, and before it, while the workers still import."""
    data, folder = write_npz(tmp_path / "colours.npz", train=400, test=20), tmp_path / "run"
    log = folder / "colours_seed_42_log.jsonl"
    command = [*LAUNCHERS[name], "pfm/train.py", "--dataset", str(data), "--save_dir", str(folder), "--epochs", "500",
               "--model_name", "scratch:vit_digits", "--batch_size", "8", "--log_every", "1", "--eval_every", "0",
               "--save_every", "0", "--cpu"]  # fmt: skip
    workers: list[psutil.Process] = []

    def are_started() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers[:] = [p for p in launcher.children(recursive=True) if "pfm/train.py" in " ".join(p.cmdline())]
        return len(workers) == (1 if "one" in name else 2)

    with (tmp_path / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=said, stderr=said)
    launcher = psutil.Process(process.pid)
    try:
        assert wait_until(are_started, 600)
        if at_step:
            assert wait_until(lambda: last_step(log) >= at_step, 600), (tmp_path / "said").read_text()
        else:  # they have begun to watch it, and import
            assert wait_until(lambda: all(worker.num_threads() > 1 for worker in workers), 600)
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs(workers, timeout=600)
        assert not alive, (tmp_path / "said").read_text()
    finally:
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        process.kill()
        process.wait()
    if at_step:
        assert load_checkpoint(folder / "colours_seed_42_resume.pt").step >= at_step
