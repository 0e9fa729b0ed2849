"""Ordinary requests, read and answered without h11, which takes a third of the time of a small one.

What is taken here is a POST whose head came in one piece: HTTP/1.1, a path, header lines of printable ASCII, one Host,
one Content-Length that what came does not exceed, and nothing that changes how a message is read or a connection used.
Whatever is not exactly like that is left to h11, which also refuses it where it has to; a test compares what both read.
The rest of a body may follow, and is handed to the application as it comes.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

from starlette.types import ASGIApp, Message

LONGEST_HEAD = 1 << 14  # bytes
MOST_FIELDS = 64
MOST_AHEAD = 1 << 18  # bytes of a body that the application has not asked for; asyncio reads as many at a time
_HEAD = re.compile(rb"POST (/[!-~]*+) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[ -~\t]*+\r\n)*+)\r\n")
_SPECIAL = frozenset((
    b"transfer-encoding", b"te", b"trailer", b"expect", b"upgrade", b"http2-settings", b"keep-alive",
    b"proxy-connection", b"content-encoding",
))  # fmt: skip
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Plain:
    """A request.

    Attributes:
        target: path and query, as they came.
        headers: names in lower case.
        body: what has come of it.
        missing: bytes of it that have not.
    """

    target: bytes
    headers: Headers
    body: bytes
    missing: int


def read_plain(data: bytes) -> Plain | None:
    """A request that begins with `data`, and has its head there; None where it is not an ordinary one."""
    if data.find(b"\r\n\r\n", 0, LONGEST_HEAD) < 0 or (head := _HEAD.match(data)) is None:
        return None
    lines = head[2].split(b"\r\n")[:-1]
    if len(lines) > MOST_FIELDS:
        return None
    headers: Headers = []
    hosts, length = 0, None
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name in _SPECIAL or (name == b"connection" and value.lower() != b"keep-alive"):
            return None
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 18:
                return None
            length = int(value)
        hosts += name == b"host"
        headers.append((name, value))
    if hosts != 1 or length is None or (missing := head.end() + length - len(data)) < 0:
        return None
    return Plain(head[1], headers, data[head.end() :], missing)


def line_of(status: int) -> bytes:
    """The first line of an answer."""
    return _LINES[status]


class Flow(Protocol):
    """What is read on a connection, and when."""

    def pause_reading(self) -> None:
        """Nothing for now."""
        ...

    def resume_reading(self) -> None:
        """What comes."""
        ...


class Exchange:
    """One such request and its answer; to uvicorn it is a cycle like its own.

    Args:
        flow: of what is read on the connection.
        answers_with: headers of every answer.
        ended: is called when the answer was written.
    """

    def __init__(
        self, request: Plain, transport: asyncio.Transport, flow: Flow, *, answers_with: Headers,
        ended: Callable[[], None],
    ) -> None:  # fmt: skip
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False
        self.message_event = asyncio.Event()
        self._came: bytes | bytearray = request.body  # that was not handed out
        self._missing = request.missing
        self._transport = transport
        self._flow = flow
        self._default = answers_with
        self._ended = ended
        self._is_handed_out = False
        self._head: list[bytes] = []
        self._left = 0  # of the answer's body

    def add(self, data: bytes) -> bytes:
        """More has come; what is behind the body is given back."""
        if not self._missing:
            return data
        part, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(part)
        if self._came:
            self._came = self._came if isinstance(self._came, bytearray) else bytearray(self._came)
            self._came += part
        else:
            self._came = part
        if not self._missing:
            self._flow.resume_reading()
        elif len(self._came) > MOST_AHEAD:
            self._flow.pause_reading()
        self.message_event.set()
        return rest

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        """Have it answered."""
        try:
            await app(scope, self._receive, self._send)
        finally:
            if not self.response_complete:
                self._transport.close()

    async def _receive(self) -> Message:
        while not self.disconnected and not self.response_complete:
            if self._came or not (self._missing or self._is_handed_out):
                body, self._came = bytes(self._came), b""
                self._is_handed_out = not self._missing
                return {"type": "http.request", "body": body, "more_body": self._missing > 0}
            if self._missing:
                self._flow.resume_reading()
            self.message_event.clear()
            await self.message_event.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self.disconnected or self.response_complete:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], [*self._default, *message.get("headers", ())])
            return
        body: bytes = message.get("body", b"")
        self._left -= len(body)
        is_last = not message.get("more_body", False)
        if self._left < 0 or (is_last and self._left):
            raise RuntimeError("the answer is not as long as it said")
        self._transport.write(b"".join((*self._head, body)))
        self._head = []
        if is_last:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive:
                self._transport.close()
            self._ended()

    def _begin(self, status: int, headers: Headers) -> None:
        parts = [_LINES[status]]
        is_close_said, length = False, None
        for name, value in headers:
            if b"\r" in value or b"\n" in value:
                raise RuntimeError("a header of an answer has a line break")
            is_close_said |= name == b"connection" and value == b"close"
            length = int(value) if name == b"content-length" else length
            parts += (name, b": ", value, b"\r\n")
        if length is None:
            raise RuntimeError("an answer has to say how long it is")
        self._left = length
        if is_close_said:
            self.keep_alive = False
        elif not self.keep_alive or self._missing:  # the rest of a body that nobody asked for would be a request
            self.keep_alive = False
            parts.append(b"connection: close\r\n")
        self._head = [*parts, b"\r\n"]


def scope_of(request: Plain, about: dict[str, Any]) -> dict[str, Any]:
    """The same as ASGI has it.

    Args:
        about: of the connection and the server.
    """
    raw_path, _, query = request.target.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "root_path": "",
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "headers": request.headers,
        **about,
    }
