"""The client of a load test: connections that are kept open, one request at a time on each, and little work a request.

It shares the machine with the server that it measures, so that what it computes itself counts, and is reported. Its
loop waits with `select`, which wakes to the microsecond; the usual `epoll` is up to a millisecond late.
"""

import asyncio
import re
import selectors
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pfm.errors import ConfigError
from pfm_export.service.turns import ask_for_short_turns

T = TypeVar("T")
MOST_OPEN = 400  # connections; `select` takes about a thousand files
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
JSON_LENGTH = re.compile(rb"\r\ninference-header-content-length: *(\d+)", re.IGNORECASE)
LAST = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: of HTTP; 0 where the connection broke.
        json_length: how much of the body is JSON, where it has binary tensors.
        port: the client's end of the connection.
    """

    status: int
    body: bytes = b""
    json_length: int | None = None
    port: int = 0


Done = Callable[[Reply], object]


def run_precisely(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, with timers that are exact to the microsecond, and short waits for a core."""
    ask_for_short_turns()

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


class Connections:
    """As many connections to one server as there are requests at a time.

    Args:
        address: such as `http://localhost:8000`.

    Raises:
        ConfigError: it is not like that.
    """

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        if place.scheme != "http" or place.hostname is None:
            raise ConfigError(f"--address {address!r} is not like http://localhost:8000")
        self._host, self._port = place.hostname, place.port or 80
        self._idle: deque[_Connection] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[bytes, Done]] = deque()
        self._open = 0

    @property
    def idle(self) -> int:
        """Connections that wait."""
        return len(self._idle)

    def request(self, method: str, path: str, body: bytes = b"", *, token: str = "", more: Sequence[str] = ()) -> bytes:
        """The bytes of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}", *more]
        lines += [f"Authorization: Bearer {token}"] if token else []
        return "\r\n".join([*lines, "", ""]).encode() + body

    def send(self, request: bytes, done: Done, *, is_spread: bool = False) -> None:
        """Send a request now, on a connection that waits or on a new one; `done` is called with what came back.

        Args:
            is_spread: take the connection that has waited longest, as if each request were another client's, and
                not the last that was used.
        """
        if self._idle:
            (self._idle.popleft() if is_spread else self._idle.pop()).ask(request, done)
            return
        self._waiting.append((request, done))
        if self._open < MOST_OPEN:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def ask(self, request: bytes) -> Reply:
        """Send a request, and wait for what comes back."""
        found: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.send(request, found.set_result)
        return await found

    async def open(self, count: int) -> None:
        """Have so many connections ready, of those that are there or new ones."""
        while len(self._idle) < count:
            self._open += 1
            await self._connect()

    async def close(self) -> None:
        """End them."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)

    def free(self, connection: "_Connection") -> None:
        """A connection has nothing to do."""
        if self._waiting:
            connection.ask(*self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lost(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self), self._host, self._port
            )
        except OSError:
            self._open -= 1
            if self._waiting:
                self._waiting.popleft()[1](Reply(0))
            return
        self.free(connection)


class _Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, pool: Connections) -> None:
        self._pool = pool
        self._done: Done | None = None
        self._got = b""
        self._needed = 0  # bytes of the whole answer; 0 before its head was read
        self._head = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._client_port: int = transport.get_extra_info("sockname")[1]

    def ask(self, request: bytes, done: Done) -> None:
        self._done = done
        self._transport.write(request)

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._got = got = self._got + data if self._got else data
        if not self._needed:
            self._head = got.find(b"\r\n\r\n") + 4
            if self._head < 4:
                return
            length = LENGTH.search(got, 0, self._head)
            self._needed = self._head + (0 if length is None else int(length[1]))
        if len(got) < self._needed:
            return
        length = JSON_LENGTH.search(got, 0, self._head)
        is_last = LAST.search(got, 0, self._head) is not None
        reply = Reply(
            int(got[9:12]), got[self._head : self._needed], None if length is None else int(length[1]),
            self._client_port,
        )  # fmt: skip
        done, self._done, self._got, self._needed = self._done, None, b"", 0
        if is_last:
            self._transport.close()
        else:
            self._pool.free(self)
        if done is not None:
            done(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._pool.lost(self)
        if self._done is not None:
            self._done(Reply(0, port=self._client_port))
            self._done = None
