"""SIGTERM and SIGINT as a request that all processes of a run agree on before any of them leaves.

A signal reaches one process at a time, or only some. Once a step each process says whether it has received one, and
a step later it reads what all of them said: by then the answer is there, since the gradients of that step needed all
processes anyway. So nobody waits, and all leave after the same step. What is said goes over a group of its own on the
CPU, so that no GPU is waited for either. One process alone needs no agreement and leaves at once.
"""

import contextlib
import signal
import threading
import time
from datetime import timedelta
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
        self._pending: tuple[dist.Work, torch.Tensor] | None = None
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._restore()
        if self._pending is None:
            return
        work, self._pending = self._pending[0], None
        if kind is None:
            work.wait()
        else:  # whoever failed alone is not to wait for those who go on
            with contextlib.suppress(RuntimeError):
                work.wait(timedelta(seconds=PATIENCE_S))

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
        """The signal that any process had received when all of them last called this, on every process; 0 for none.

        Every process has to call this equally often.
        """
        if self._group is None:
            return self.received
        number = 0
        if self._pending is not None:
            work, highest = self._pending
            work.wait()
            number, self._pending = int(highest), None
        if not number:
            self._pending = self._post(self.received)
        return number

    def highest(self, value: int) -> int:
        """The largest of the processes' values, on every process; waits for all of them."""
        if self._group is None:
            return value
        work, highest = self._post(value)
        work.wait()
        return int(highest)

    def _post(self, value: int) -> "tuple[dist.Work, torch.Tensor]":
        """Say a value to all processes; the tensor holds their largest one once the work is done."""
        highest = torch.tensor([value])
        work = dist.all_reduce(highest, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        assert work is not None, "this process is in the group"
        return work, highest
