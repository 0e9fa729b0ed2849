"""One connection, as uvicorn and h11 speak HTTP on it, and what they leave open: how long it may say nothing or next to
nothing, how small the chunks of a body may be, and errors as every other one of the server is.

A head, once begun, has to be there in `HEAD_SECONDS`; an answer has to be read in the time that a connection may be
idle; and a body in millions of tiny chunks, each of which takes as long to read as a large one, is not taken.
"""

# pyright: reportUnknownMemberType=false
# uvicorn leaves the type of its application open

import asyncio
from typing import Any, cast

import h11
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pfm_export.service.asking import Asking
from pfm_export.service.lane import Lane
from pfm_export.service.packets import Joined
from pfm_export.service.plain import Exchange, Headers, Plain, read_plain, scope_of
from pfm_export.service.tensors import as_json

HEAD_SECONDS = 10
LONGEST_HEAD = 1 << 16  # bytes
MANY_CHUNKS, SMALL_CHUNK = 4096, 64  # so many may be as small as they like; then the average counts, in bytes
NOT_HTTP = "this is not a request of HTTP/1.1, or its head is too long"
TOO_SLOW = "the head of the request did not come in time"


class Connection(H11Protocol):
    """A connection of the server."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        self.conn = _Reader(h11.SERVER, max_incomplete_event_size=LONGEST_HEAD)
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None  # of the lane's requests; looked at when it rings
        self._used = 0.0
        self._exchange: Exchange | Asking | None = None  # that runs
        self._held = b""  # came meanwhile

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._joined = Joined(transport)
        super().connection_made(cast("asyncio.Transport", self._joined))
        self._lane = cast("Lane | None", getattr(cast("object", self.app), "lane", None))  # the application is a guard
        self._unused_timer = self.loop.call_later(self.config.timeout_keep_alive, self._end_unused)

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_timer = _cancelled(self._head_timer)
        self._write_timer = _cancelled(self._write_timer)
        self._idle_timer = _cancelled(self._idle_timer)
        self._unused_timer.cancel()  # which would keep the connection, and all that it knows
        self._held = b""
        if isinstance(self._exchange, Asking):
            self._exchange.end()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            if rest := self._exchange.add(data):
                self._held += rest
                self.flow.pause_reading()
            return
        if self.transport.is_closing():  # what follows the last answer, such as the rest of a body that was refused
            return
        if self.conn.their_state is h11.MUST_CLOSE:
            return
        if self._is_between_requests:
            if self._lane is not None and (asking := self._lane.take(data, self)) is not None:
                self._unset_keepalive_if_required()
                self.cycle = cast("Any", asking)
                self._exchange = asking
                return
            if (request := read_plain(data)) is not None:
                self._answer(request)
                return
        super().data_received(data)
        is_in_head = self.conn.their_state is h11.IDLE and bool(self.conn.trailing_data[0])
        if not is_in_head:
            self._head_timer = _cancelled(self._head_timer)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._end_slow)

    @property
    def _is_between_requests(self) -> bool:
        is_quiet = self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE
        return is_quiet and not self.conn.trailing_data[0]

    def _answer(self, request: Plain) -> None:
        """Past h11, whose state stays as it is between two requests."""
        self._unset_keepalive_if_required()
        exchange = Exchange(
            request, self.transport, self.flow, answers_with=self.server_state.default_headers, ended=self._on_answered
        )
        self._exchange = exchange
        self.cycle = cast("Any", exchange)
        about = {"server": self.server, "client": self.client, "scheme": self.scheme, "state": self.app_state.copy()}
        task = self.loop.create_task(exchange.run(cast("ASGIApp", self.app), scope_of(request, about)))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    @property
    def default_headers(self) -> Headers:
        """Of every answer."""
        return self.server_state.default_headers

    def send_answer(self, message: bytes, *, is_last: bool) -> None:
        """Of the lane."""
        self._exchange = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._joined.write_whole(message)
        if is_last:
            self.transport.close()
            return
        self._used = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._end_idle)
        self._take_held()

    def answer_usually(self, data: bytes) -> None:
        """What the lane has let go of."""
        self._exchange = None
        if not self.transport.is_closing() and (request := read_plain(data)) is not None:
            self._answer(request)

    def _end_idle(self) -> None:
        """Where nothing has come since an answer; a timer for each request would cost more than this one."""
        self._idle_timer = None
        left = self._used + self.timeout_keep_alive - self.loop.time()
        if self.timeout_keep_alive_task is not None:  # which will look
            return
        if left <= 0 and self._exchange is None and self._is_between_requests:
            self.timeout_keep_alive_handler()
        else:
            self._idle_timer = self.loop.call_later(left if left > 0 else self.timeout_keep_alive, self._end_idle)

    def _on_answered(self) -> None:
        self._exchange = None
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self._used = self.loop.time()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        self._take_held()

    def _take_held(self) -> None:
        if self._held and not self.flow.write_paused:
            data, self._held = self._held, b""
            self.flow.resume_reading()
            self.data_received(data)

    def send_400_response(self, msg: str) -> None:
        del msg
        self._refuse(400, NOT_HTTP)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.flow.pause_reading()  # of a client that does not read its answers; else they would pile up
        self._write_timer = self.loop.call_later(self.config.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        self._write_timer = _cancelled(self._write_timer)
        super().resume_writing()
        if self._exchange is None:
            self._take_held()
        if not self._held:
            self.flow.resume_reading()

    def _end_unused(self) -> None:
        cycle = cast("object", self.cycle)  # None before the first request
        if cycle is None:
            self.transport.close()

    def _end_slow(self) -> None:
        if not self.transport.is_closing():
            self._refuse(408, TOO_SLOW)

    def _refuse(self, status: int, message: str) -> None:
        """Say what is wrong, where an answer has not begun, and end the connection."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = as_json({"error": message})
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            events = (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()


class _Reader(h11.Connection):
    """Takes no body of many tiny chunks, and nothing that follows a request which said that it is the last one.

    What follows it is ignored (RFC 9112, 9.6), where h11 has an error that would become the answer.
    """

    _chunks = _bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.MUST_CLOSE:
            return h11.NEED_DATA
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > MANY_CHUNKS and self._bytes < SMALL_CHUNK * self._chunks:
                raise h11.RemoteProtocolError("tiny chunks")
        return event


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
