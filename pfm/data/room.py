"""How much memory and disk there is for data, and sizes as people write them; knows no torch.

What a run takes of it is estimated in `pfm.training.room`.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from pfm.errors import ConfigError

HOST_SHARE = 0.5  # of the free memory, that data may take when nobody says how much
DISK_SHARE = 0.8  # of the free room in the folder for temporary files
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)


def parse_size(text: str, option: str) -> int:
    """Bytes of "4GB", "512M" or "1.5 GiB"; the units are powers of 1,024.

    Args:
        option: that it was given for, in the error.

    Raises:
        ConfigError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{option} {text!r} is not a size; write it like 4GB or 512MB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def size_text(size_bytes: float) -> str:
    """For people: "574 MiB", "41.2 GiB"."""
    if size_bytes < 2**10:
        return f"{size_bytes:,.0f} bytes"
    for unit, scale in (("KiB", 2**10), ("MiB", 2**20)):
        if size_bytes < 1000 * scale:
            return f"{size_bytes / scale:,.{0 if size_bytes >= 10 * scale else 1}f} {unit}"
    return f"{size_bytes / 2**30:,.1f} GiB"


def free_memory() -> int:
    """Bytes of memory that a process may still take: the host's, or what is left of the limit it runs under."""
    free = [_of_host("MemAvailable", "SC_AVPHYS_PAGES")]
    for limit, used, cache in _cgroups():
        free.append(limit - used + cache)
    return max(0, min(free))


def all_memory() -> int:
    """Bytes of memory that a process could take if nobody else had any: the host's, or the limit it runs under."""
    return min([_of_host("MemTotal", "SC_PHYS_PAGES"), *(limit for limit, _, _ in _cgroups())])


def free_disk() -> int:
    """Bytes of room in the folder for temporary files."""
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        return 0


def _of_host(name: str, pages: str) -> int:
    """Bytes that the system states under a name, or as a number of pages elsewhere than on Linux."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and pages in os.sysconf_names:
        return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return 2 * 2**30  # nothing is known: as if there were little


def _cgroups() -> list[tuple[int, int, int]]:
    """(limit, used, of which cache that can be dropped) of each group that this process is in and that has a limit."""
    found: list[tuple[int, int, int]] = []
    root = Path("/sys/fs/cgroup")
    try:
        entries = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        return found
    for _, controllers, path in entries:
        if controllers == "":  # version 2: one tree
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            base = root / "memory"
        else:
            continue
        own = base / path.strip("/")
        for folder in (own, *own.parents):  # in a container the group's own path may not be there, but its root is
            group = _read_group(folder, *names)
            if group is not None:
                found.append(group)
            if folder == base:
                break
    return found


def _read_group(folder: Path, limit_name: str, used_name: str, cache_name: str) -> tuple[int, int, int] | None:
    try:
        limit, used = (folder / limit_name).read_text().strip(), int((folder / used_name).read_text())
        if limit == "max":
            return None
        lines = (folder / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    cache = next((int(line.split()[1]) for line in lines if line.split()[0] == cache_name), 0)
    return int(limit), used, cache
