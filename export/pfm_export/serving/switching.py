"""Short waits for the interpreter's lock while something long runs beside requests.

A thread that computes in Python hands the lock over after 5 ms, and a request asks for it several times. While a class
is erased, threads take turns more often, so that requests of the same process are not held up by it.
"""

import contextlib
import sys
import threading
from collections.abc import Generator

INTERVAL = 0.0005  # seconds

_lock = threading.Lock()
_before: list[float] = []  # one entry for each that is inside; the first is the interval to go back to


@contextlib.contextmanager
def quick_switches() -> Generator[None]:
    """Threads of this process take turns after half a millisecond while the block runs."""
    with _lock:
        _before.append(sys.getswitchinterval() if not _before else _before[0])
        sys.setswitchinterval(min(INTERVAL, _before[0]))
    try:
        yield
    finally:
        with _lock:
            before = _before.pop()
            if not _before:
                sys.setswitchinterval(before)
