"""The stories, each in a process of its own.

The libraries take longer to import than a small model to export. So one server process imports
them and the others are forked from it, while this process imports what it needs for the latencies.
"""

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from pfm.errors import TrainingError

if TYPE_CHECKING:
    from pfm_bench.demo.story import ReadoutResult
    from pfm_bench.demo.task import Task

READOUTS = ("cls", "prompt", "ridge")
_HEAVY = [
    "pfm_bench.demo.story",
    "pfm_bench.scenarios.serving",
    "transformers.models.vit.modeling_vit",
    "sklearn.datasets",
]


def readout_folder(folder: Path, readout: str) -> Path:
    """Where one story's files go."""
    return folder / f"readout_{readout}"


def tell_both(task: "Task", folder: Path, seed: int) -> "dict[str, ReadoutResult]":
    """What each readout achieved.

    Raises:
        TrainingError: a process was killed.
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload(_HEAVY)
    with ProcessPoolExecutor(len(READOUTS), mp_context=context) as pool:
        futures = {name: pool.submit(_tell, task, name, readout_folder(folder, name), seed) for name in READOUTS}
        for module in _HEAVY:
            importlib.import_module(module)
        try:
            return {name: future.result() for name, future in futures.items()}
        except BrokenProcessPool as error:
            raise TrainingError("a process of the demo was killed, for lack of memory perhaps; run it again") from error


def _tell(task: "Task", readout: str, folder: Path, seed: int) -> "ReadoutResult":
    from pfm_bench.demo.story import tell_story

    return tell_story(task, readout, folder, seed)
