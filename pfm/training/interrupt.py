"""SIGTERM and SIGINT as a request that all processes of a run agree on before any of them leaves.

A signal reaches one process at a time, or only some. Each process raises its hand, and once a step
all of them look at the hands: over a group of its own on the CPU, so that no GPU is waited for.
"""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE_S = 5.0


class StopRequest:
    """Inside its `with` block the signals only ask; one that comes `PATIENCE_S` after the first kills as ever.

    Not sooner: a scheduler that signals a whole process group and a launcher that hands the signal on
    mean one request.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0
        self._before: dict[int, Any] = {}
        self._group = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > PATIENCE_S:
            self._restore()
            signal.raise_signal(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self) -> int:
        """The signal that any process received, on every process; 0 for none.

        Every process has to call this equally often.
        """
        return self.highest(self.received)

    def highest(self, value: int) -> int:
        """The largest of the processes' values, on every process."""
        if self._group is None:
            return value
        hands = torch.tensor([value])
        dist.all_reduce(hands, op=dist.ReduceOp.MAX, group=self._group)
        return int(hands)
