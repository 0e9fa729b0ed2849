"""Which CPUs this process and those that it starts may run on, as `taskset` sets it; Linux only."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from pfm.errors import ConfigError
from pfm.storage import Json


def read_cpus(text: str) -> tuple[int, ...]:
    """CPUs as `taskset -c` takes them, such as 0,2-4.

    Raises:
        ConfigError: it is not like that, or this process may not use one of them.
    """
    found: list[int] = []
    for part in filter(None, text.split(",")):
        first, is_range, last = part.partition("-")
        try:
            found += range(int(first), int(last if is_range else first) + 1)
        except ValueError as error:
            raise ConfigError(f"{text!r} is not a list of CPUs such as 0,2-4") from error
    if missing := set(found) - os.sched_getaffinity(0):
        raise ConfigError(f"CPUs {sorted(missing)} of {text!r} are not for this process")
    return tuple(dict.fromkeys(found))


def pin(cpus: Sequence[int]) -> None:
    """All threads of this process, and what they start from now on."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), cpus)


@contextlib.contextmanager
def on_cpus(cpus: Sequence[int]) -> Iterator[None]:
    """The thread that asks, and what it starts, until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def siblings(cpus: Sequence[int]) -> Json:
    """Which CPUs are threads of one physical core, as far as the system says; a virtual machine may not know."""
    folder = Path("/sys/devices/system/cpu")
    paths = {cpu: folder / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in cpus}
    return {str(cpu): path.read_text().strip() for cpu, path in paths.items() if path.exists()}


def stolen_ms(cpus: Sequence[int]) -> float:
    """What a hypervisor has kept from these CPUs so far, where it says so."""
    lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    names = {f"cpu{cpu}" for cpu in cpus}
    return sum(1000 * int(fields[8]) / os.sysconf("SC_CLK_TCK") for fields in lines if fields[0] in names)
