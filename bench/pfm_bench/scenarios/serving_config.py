"""The options of `pfm bench serve`."""

import os
from dataclasses import dataclass

from pfm.errors import ConfigError
from pfm.options import LARGEST_SEED, option
from pfm_bench.scenarios import SCENARIOS
from pfm_bench.targets import TARGETS


@dataclass(frozen=True, kw_only=True)
class ServeBenchConfig:
    """`pfm bench serve`; a list is written with commas."""

    targets: str = option(
        "",
        f"What to time: {', '.join(TARGETS.names())}.  "
        "[default: torch, and ONNX Runtime on the CPU and GPU that are there]",
    )
    batch_sizes: str = option("1,8,32", "Images per call.")
    active_sizes: str = option("", "Numbers of active prompts; 0 is allowed.  [default: 1, half, all]")
    threads: str = option("0", "CPU threads of each runtime; a run for each number.  [0: all cores]")
    rounds: int = option(50, "Rounds; in each, every case runs once.", minimum=5)
    seconds: float = option(
        30.0, "Stop early after this time (not before 5 rounds); each scenario takes about as long.", minimum=1.0
    )
    device: str = option(
        "auto", "Where torch runs, and which targets are the default.", choices=("auto", "cpu", "cuda")
    )
    memory: bool = option(False, "Measure the peak memory of each target on a CPU too, in a process of its own.")
    scenarios: str = option("", f"Measure these too: {', '.join(SCENARIOS.names())}.")
    latency_bound_ms: float = option(
        0.0, "The server scenario's bound on p99.  [0: three times the first target's median]", minimum=0.0
    )
    seed: int = option(0, "Seed of the order in a round and of the arrivals.", minimum=0, maximum=LARGEST_SEED)

    def __post_init__(self) -> None:
        _ = self.batch_list, self.active_list, self.thread_list
        for name in self.scenario_list:
            try:
                SCENARIOS.get(name)
            except ConfigError as error:
                raise ConfigError(f"--scenarios: {error}") from error

    @property
    def batch_list(self) -> list[int]:
        return _numbers(self.batch_sizes, "--batch_sizes", minimum=1)

    @property
    def active_list(self) -> list[int]:
        return _numbers(self.active_sizes, "--active_sizes", minimum=0) if self.active_sizes.strip() else []

    @property
    def thread_list(self) -> list[int]:
        cores = os.cpu_count() or 1
        return sorted({count or cores for count in _numbers(self.threads, "--threads", minimum=0)})

    @property
    def target_list(self) -> list[str]:
        return _names(self.targets)

    @property
    def scenario_list(self) -> list[str]:
        return _names(self.scenarios)


def _names(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _numbers(text: str, name: str, *, minimum: int) -> list[int]:
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise ConfigError(f"{name} {text!r}: whole numbers separated by commas are expected") from error
    if values[0] < minimum:
        raise ConfigError(f"{name} {text!r}: numbers from {minimum} up are expected")
    return values
