"""A process that a launcher started leaves when the launcher dies, however it dies.

A launcher that is told to stop tells its processes. One that is killed outright, or by the kernel for its memory, says
nothing, and its processes would train on with nobody to end them. So each of them looks whether its parent is still
the one that started it, and where it is not asks itself to stop as a signal would: the run saves where it stands and
leaves. It imports nothing that takes time, so that it can look from the first moment.
"""

import os
import signal
import threading
import time
from pathlib import Path

EVERY_S = 1.0
# to save and leave in, before the process is ended as it is
GRACE_S = 100.0
_NAMES = (b"accelerate", b"torchrun", b"torch.distributed", b"torch/distributed")

_watched: set[int] = set()


def watch_launcher() -> bool:
    """Watch the process that started this one, if it is a launcher; whether it is watched, by this call or before."""
    parent = os.getppid()
    if parent not in _watched:
        if not is_launcher(parent):
            return False
        _watched.add(parent)
        threading.Thread(target=_watch, args=(parent,), name="launcher", daemon=True).start()
    return True


def is_launcher(pid: int) -> bool:
    """Whether a process is one of `accelerate launch` or `torchrun`.

    A shell is not one: a run that it started may outlive it.
    """
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # no Linux: only what torchrun says
        return os.name == "posix" and "TORCHELASTIC_RUN_ID" in os.environ
    return any(name in command for name in _NAMES)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
