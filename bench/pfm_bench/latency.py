"""Timed calls in interleaved rounds -> raw samples; percentiles and ratios are derived from them.

A machine that others share drifts by tens of percent within a minute. So the calls that are to be
compared run in turn, each once a round in a random order, and a ratio is taken round by round.
Beside the time on the clock stands the time this process had the CPU for: what others take away
shows in the first only.
"""

import gc
import multiprocessing
import random
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch

from pfm_bench.reports.stats import paired_ratio, paired_speed, percentiles

Key = TypeVar("Key", bound=Hashable)


@dataclass
class Samples(Generic[Key]):
    """Milliseconds of each call, one a round, in the order of the rounds.

    Attributes:
        latency_ms: on the clock.
        cpu_ms: of this process on the CPU, all threads together.
    """

    latency_ms: dict[Key, list[float]]
    warmup_rounds: int
    pause_ms: float
    budget_was_spent: bool = field(default=False)
    cpu_ms: dict[Key, list[float]] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return min(len(values) for values in self.latency_ms.values())

    def percentiles(self, key: Key) -> dict[str, float]:
        """p50, p90 and p99 in milliseconds."""
        return percentiles(self.latency_ms[key])

    def ratio(self, key: Key, to: Key) -> dict[str, dict[str, float]]:
        """Time of `key` over that of `to`, on the clock and in CPU time; see `paired_ratio`."""
        return {clock: paired_ratio(times[key], times[to]) for clock, times in self._clocks().items()}

    def speed(self, key: Key, to: Key) -> dict[str, dict[str, float]]:
        """How many times as fast `key` is as `to`, on the clock and in CPU time; see `paired_speed`."""
        return {clock: paired_speed(times[key], times[to]) for clock, times in self._clocks().items()}

    def _clocks(self) -> dict[str, dict[Key, list[float]]]:
        return {clock: times for clock, times in {"wall": self.latency_ms, "cpu": self.cpu_ms}.items() if times}


def measure(
    calls: Mapping[Key, Callable[[], object]],
    *,
    rounds: int,
    warmup_rounds: int = 2,
    budget_s: float = float("inf"),
    min_rounds: int = 5,
    pause_ms: float = 5.0,
    seed: int = 0,
    on_round: Callable[[], object] = lambda: None,
) -> Samples[Key]:
    """Time every call once a round.

    Args:
        rounds: how many at most; fewer, but at least `min_rounds`, once `budget_s` seconds have passed.
        pause_ms: idle time before each call, so that one runtime's spinning threads do not slow the next.
    """
    order = list(calls)
    shuffle = random.Random(seed)
    for _ in range(warmup_rounds):
        for call in calls.values():
            call()
    latency_ms: dict[Key, list[float]] = {key: [] for key in order}
    cpu_ms: dict[Key, list[float]] = {key: [] for key in order}
    samples = Samples(latency_ms, warmup_rounds, pause_ms, cpu_ms=cpu_ms)
    started = time.perf_counter()
    gc_was_on = gc.isenabled()
    gc.disable()
    gc.collect()
    gc.freeze()  # what the libraries made is not searched between the rounds
    try:
        for number in range(rounds):
            if number >= min_rounds and time.perf_counter() - started > budget_s:
                samples.budget_was_spent = True
                break
            shuffle.shuffle(order)
            for key in order:
                time.sleep(pause_ms / 1000)
                before, cpu_before = time.perf_counter(), time.process_time()
                calls[key]()
                latency_ms[key].append((time.perf_counter() - before) * 1000)
                cpu_ms[key].append((time.process_time() - cpu_before) * 1000)
            gc.collect()
            on_round()
    finally:
        gc.unfreeze()
        if gc_was_on:
            gc.enable()
    return samples


def matmul_ceiling(
    device: torch.device,
    dtype: torch.dtype,
    *,
    sizes: Sequence[int] = (512, 1024, 2048, 4096, 8192),
    repeats: int = 5,
    enough_s: float = 0.02,
) -> float:
    """The most floating-point operations a second, in units of 10⁹, that square matrix products reach here.

    Args:
        sizes: sides of the squares, ascending.
        enough_s: a product that takes this long fills the device; larger ones are not tried.
    """

    def product(size: int) -> Callable[[], object]:
        square = torch.randn(size, size, device=device).to(dtype)
        result = square @ square
        return lambda: torch.matmul(square, square, out=result)

    return product_ceiling(device, product, sizes=sizes, repeats=repeats, enough_s=enough_s)


def product_ceiling(
    device: torch.device,
    prepare: Callable[[int], Callable[[], object]],
    *,
    sizes: Sequence[int],
    repeats: int = 5,
    enough_s: float = 0.02,
) -> float:
    """As `matmul_ceiling`, for the product that `prepare` makes of a side."""
    flops_per_s = 0.0
    for size in sizes:
        call = prepare(size)
        best_s = float("inf")
        for _ in range(repeats):
            synchronise(device)
            before = time.perf_counter()
            call()
            synchronise(device)
            best_s = min(best_s, time.perf_counter() - before)
        flops_per_s = max(flops_per_s, 2 * size**3 / best_s)
        if best_s > enough_s:
            break
    return flops_per_s / 1e9


def synchronise(device: torch.device) -> None:
    """Wait for everything that was started on a GPU; a CPU is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
