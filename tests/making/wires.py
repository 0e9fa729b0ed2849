"""A connection of a server without a socket: bytes are handed to it in pieces, and what it writes is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from pfm_export.service.connection import Connection


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False
        self.is_reading_paused = False

    def write(self, data: Any) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


def connect(app: ASGIApp) -> tuple[Connection, Wire]:
    """A new connection of a server with this application, where a loop runs."""
    wire = Wire()
    config = uvicorn.Config(
        app, http=Connection, ws="none", lifespan="off", log_config=None, proxy_headers=False,
        timeout_keep_alive=600,  # a busy machine lets a test say nothing for a while
    )  # fmt: skip
    config.load()
    connection = Connection(config=config, server_state=ServerState(), app_state={})
    connection.connection_made(wire)
    return connection, wire


@asynccontextmanager
async def connected(app: ASGIApp) -> AsyncIterator[tuple[Connection, Wire]]:
    """The same, until the block ends."""
    connection, wire = connect(app)
    try:
        yield connection, wire
    finally:
        connection.connection_lost(None)


Talk = Callable[[Connection, Wire], Awaitable[None]]


def talk(app: ASGIApp, what: Talk) -> Wire:
    """A conversation on one connection of a server with this application."""

    async def run() -> Wire:
        async with connected(app) as (connection, wire):
            await what(connection, wire)
        return wire

    return asyncio.run(run())
