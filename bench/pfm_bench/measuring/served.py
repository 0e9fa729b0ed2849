"""`pfm serve` as a process of its own: where it listens, what its workers compute and hold, and its end.

What a worker computes is its time on the CPU, all threads together, which other programs on the machine do not add to.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pfm.errors import ConfigError
from pfm_bench.measuring.worker_ports import children

SERVE = "from pfm.cli import main; main()"


@dataclass(frozen=True, kw_only=True)
class HeldMemory:
    """Resident megabytes (MiB) of a server's processes.

    Attributes:
        worker: of those that answer.
        clerk: of those beside them that change bundles.
        parent: of the one that keeps the workers.
        together: of all, where each counts its share of what several processes have, such as the code of libraries; the
            client may be one of them.
    """

    worker: float
    clerk: float
    parent: float
    together: float


@dataclass(frozen=True, kw_only=True)
class OwnServer:
    """A server that runs.

    Attributes:
        address: such as `http://127.0.0.1:8000`.
        pid: of the process that keeps the workers.
        workers: ids of its processes, as they were at the start.
    """

    address: str
    pid: int
    workers: tuple[int, ...]

    @property
    def port(self) -> int:
        """On this machine."""
        return int(self.address.rpartition(":")[2])

    def cpu_ms(self) -> float:
        """What the threads that are there have computed so far."""
        return sum(_nanoseconds(path) for pid in self.workers for path in _threads(pid)) / 1e6

    def resident_mib(self) -> float:
        """What its workers hold."""
        return _memory_mib(self.workers, "status", "VmRSS")

    def memory_mib(self) -> HeldMemory:
        """What all of its processes hold."""
        clerks = [clerk for worker in self.workers for clerk in children(worker)]
        return HeldMemory(
            worker=self.resident_mib(),
            clerk=_memory_mib(clerks, "status", "VmRSS"),
            parent=_memory_mib([self.pid], "status", "VmRSS"),
            together=_memory_mib([*self.workers, *clerks, self.pid], "smaps_rollup", "Pss"),
        )

    def peak_mib(self) -> float:
        """The most that its workers held since `forget_peak`."""
        return _memory_mib(self.workers, "status", "VmHWM")

    def forget_peak(self) -> None:
        """Let the peak count from here."""
        for pid in self.workers:
            Path(f"/proc/{pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def own_server(bundles: Sequence[str | Path], *options: str, log: Path) -> Iterator[OwnServer]:
    """Serve bundles on a free port of this machine until the block ends; Linux only.

    Args:
        bundles: as `pfm serve` takes them.
        options: of `pfm serve`.
        log: file for what it says.

    Raises:
        ConfigError: it does not start; the last line of its log is the message.
    """
    command = [sys.executable, "-c", SERVE, "serve", *map(str, bundles), "--port", "0", *options]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with log.open("w") as said, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=said, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline().strip()
            if not line:
                raise ConfigError(f"pfm serve did not start: {(log.read_text().splitlines() or [''])[-1]}")
            yield OwnServer(
                address=line.removeprefix("serving on "), pid=process.pid, workers=tuple(children(process.pid))
            )
        finally:
            process.send_signal(signal.SIGTERM)


def _memory_mib(processes: Sequence[int], file: str, name: str) -> float:
    """The sum over processes of what a file of `/proc` states in kilobytes."""
    lines = [line for pid in processes for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def _threads(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _nanoseconds(path: Path) -> int:
    try:
        return int(path.read_text().split()[0])
    except OSError:  # the thread has ended
        return 0
