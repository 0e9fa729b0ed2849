"""A request on its way to the engine, and what has come of it: whole, or in pieces that are put behind each other.

Pieces go into one buffer that grows, so that a body that comes byte by byte takes no more memory than another and no
more than linear time. The buffer begins with so many empty bytes that the numbers behind the JSON are aligned.
"""

import time
from typing import Protocol

from pfm_export.service.guard import Client, Note
from pfm_export.service.outlines import Head, Outline
from pfm_export.service.plain import Headers
from pfm_export.service.tenants import Tenant
from pfm_export.serving.answers import Prediction

ALIGNED = 16  # bytes


class Wire(Protocol):
    """A connection, as an answer needs it."""

    def send_answer(self, message: bytes, *, is_last: bool) -> None:
        """Send all of an answer, and end the connection where it is the last one."""
        ...

    def answer_usually(self, data: bytes) -> None:
        """Have a request answered in the usual way."""
        ...

    @property
    def default_headers(self) -> Headers:
        """Of every answer."""
        ...

    @property
    def client(self) -> Client:
        """Who is at the other end."""
        ...


class Answering(Protocol):
    """What answers a request; the lane."""

    def gather(self, asking: "Asking", size: int, /) -> None:
        """So many bytes more of its body have come."""
        ...

    def lose(self, asking: "Asking", /) -> None:
        """Its connection has ended."""
        ...

    def answer(self, asking: "Asking", prediction: Prediction, /) -> None:
        """Send an answer."""
        ...

    def post_failure(self, asking: "Asking", error: BaseException, /) -> None:
        """Say that there is none, from any thread."""
        ...


class _Nobody:
    def set(self) -> None:
        """Nobody waits for it."""


class Asking:
    """A request on its way: to the engine what becomes of it, to uvicorn a cycle like its own.

    Args:
        data: its head, and what has come of its body.
        start: bytes of the head.

    Attributes:
        missing: bytes of the body that have not come.
    """

    message_event = _Nobody()

    def __init__(
        self, lane: Answering, wire: Wire, data: bytes, start: int, *, head: Head, tenant: Tenant, note: Note
    ) -> None:
        self.keep_alive, self.response_complete, self.disconnected = True, False, False
        self.wire, self.head, self.tenant, self.note = wire, head, tenant, note
        self.outline: Outline | None = None
        self.missing = start + head.length - len(data)
        self.begun = time.monotonic()
        self._front = -(start + head.json_length) % ALIGNED if self.missing else 0
        self._data = bytearray(self._front) + data if self.missing else data
        self._start = self._front + start
        self._lane = lane
        self._is_given_up = False

    @property
    def whole(self) -> bytes:
        """All that has come."""
        return bytes(memoryview(self._data)[self._front :])

    @property
    def body(self) -> memoryview:
        """What has come behind the head; nothing can be added while it is held."""
        return memoryview(self._data)[self._start :].toreadonly()

    def add(self, data: bytes) -> bytes:
        """More has come; what is behind the body is given back."""
        if not self.missing:
            return data
        part, rest = data[: self.missing], data[self.missing :]
        self._data += part  # in place
        self.missing -= len(part)
        self._lane.gather(self, len(part))
        return rest

    def release(self) -> None:
        """Let go of all that has come: a connection knows its last request for as long as it is open."""
        self._data, self._front, self._start = b"", 0, 0

    def end(self) -> None:
        """Its connection has ended."""
        self._lane.lose(self)

    def cancelled(self) -> bool:
        """Nobody waits any more."""
        return self._is_given_up

    def cancel(self) -> bool:
        """It is not to be begun any more."""
        self._is_given_up = True
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """Whether its pass may begin."""
        return not self._is_given_up

    def set_result(self, prediction: Prediction) -> None:
        """Here it is; called where the loop runs."""
        self._lane.answer(self, prediction)

    def set_exception(self, error: BaseException) -> None:
        """There is none; called in any thread."""
        self._lane.post_failure(self, error)
