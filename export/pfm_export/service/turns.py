"""Short turns on a core for the thread that answers requests, beside threads that compute.

A thread that wakes up waits until the one that runs has used up its turn, some milliseconds, unless it asks for turns
that are shorter than that one's: then it is let in at once. It gets no more of the core than before. Linux 6.12 and
later; elsewhere nothing changes.
"""

import ctypes
import os
import platform
import struct
import sys

TURN = 100_000  # nanoseconds; the least that Linux takes
RESET_ON_FORK = 1  # threads and processes that this one starts have ordinary turns
_CALLS = {"x86_64": 314, "aarch64": 274}  # sched_setattr


def ask_for_short_turns() -> bool:
    """For the calling thread; whether the system took it."""
    number = _CALLS.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    # size, policy (the ordinary one), flags, niceness (as it is), priority, length of a turn, two that are not for it
    asked = struct.pack("=IIQiIQQQ", 48, 0, RESET_ON_FORK, os.getpriority(os.PRIO_PROCESS, 0), 0, TURN, 0, 0)
    try:
        return ctypes.CDLL(None).syscall(number, 0, ctypes.c_char_p(asked), 0) == 0
    except (OSError, AttributeError):
        return False
