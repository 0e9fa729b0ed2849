"""The processes of a server on this machine, and which of them has which connection; Linux only."""

import os
from pathlib import Path

ESTABLISHED = "01"


def children(pid: int) -> list[int]:
    """Processes that a process has started, in any of its threads, and that have not ended."""
    started = [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
    return [int(child) for child in started]


def client_ports(pid: int) -> set[int]:
    """The clients' ends of the TCP connections that a process has accepted; none where it has ended."""
    inodes: set[str] = set()
    try:
        files = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return set()
    for file in files:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{file}")
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[len("socket:[") : -1])
    found: set[int] = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else ():
            fields = line.split()
            if fields[3] == ESTABLISHED and fields[9] in inodes:
                found.add(int(fields[2].rpartition(":")[2], 16))
    return found
