"""Processes of our own: `accelerate launch` from the root of the checkout."""

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent.parent


def environment() -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return {**clean, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}


def kill_all(process: "subprocess.Popen[Any]") -> None:
    """SIGKILL to a process and to all that it started, each of which may end by itself meanwhile."""
    if process.poll() is None:
        workers = psutil.Process(process.pid).children(recursive=True)
        for each in (*workers, process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(workers, timeout=600)
    process.wait()


def launch(command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
