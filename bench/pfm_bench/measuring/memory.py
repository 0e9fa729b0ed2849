"""The most memory that a call takes: of this process, of a process of its own, of a GPU."""

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch


def peak_memory_mib() -> float:
    """The most memory this process has had in use, in MiB."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):  # unlike `ru_maxrss`, it does not start at what the parent process used
            return int(line.split()[1]) / 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def gpu_peak_mib(device: torch.device, call: Callable[[], object], base_bytes: int) -> float:
    """Most memory that torch allocates on a GPU during a call, in MiB above `base_bytes`; the call runs twice."""
    call()
    torch.cuda.reset_peak_memory_stats(device)
    call()
    return (torch.cuda.max_memory_allocated(device) - base_bytes) / 2**20


def peak_in_child(build: Callable[[], Callable[[], object]], *, calls: int, preload: Sequence[str] = ()) -> float:
    """Peak memory in MiB of a process of its own that builds something and calls it, above what its libraries take.

    One process cannot tell the memory of several models apart.

    Args:
        build: travels to the process, so it has to be a function of a module, or a partial of one.
        preload: modules to import before memory is looked at.
    """
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload([__name__, *preload])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_build_and_call, build, calls, torch.get_num_threads()).result()


def _build_and_call(build: Callable[[], Callable[[], object]], calls: int, threads: int) -> float:
    torch.set_num_threads(threads)
    base = peak_memory_mib()
    call = build()
    for _ in range(calls):
        call()
    return peak_memory_mib() - base
