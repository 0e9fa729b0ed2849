"""A server process: it is told what to serve on standard input, says on standard output when it is ready.

It ends when it is told to, or when standard input closes: then the process that started it is gone.
"""

import asyncio
import json
import math
import os
import signal
import socket
import sys
import threading
from typing import cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from pfm.data.pixels import limit_pixels, refuse_programs
from pfm.errors import PfmError
from pfm_export.service.app import build_app
from pfm_export.service.config import ServeConfig
from pfm_export.service.guard import Guard
from pfm_export.service.logs import capture_libraries
from pfm_export.service.orders import READY, Order, records_folder
from pfm_export.service.service import Service

KEEP_ALIVE = 60  # seconds that a connection may say nothing


class _Server(uvicorn.Server):
    """Says when it takes connections, and to the application when it takes no more."""

    def __init__(self, app: Guard, config: ServeConfig) -> None:
        super().__init__(settings(app, config))
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(READY, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.is_closing = True
        await super().shutdown(sockets)


class _Joined:
    """A transport that sends what is written in one go of the loop at once: head and body of an answer are one packet.

    A client is woken once for it, and the thread gives the interpreter away once.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """As of transports."""
        if not self._parts:
            self._loop.call_soon(self._send)
        self._parts.append(data)

    def close(self) -> None:
        """As of transports: what was written goes out first."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._parts:
            whole = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(whole)


class _Protocol(H11Protocol):
    """HTTP as uvicorn and h11 do it; a connection whose first request does not come is ended."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(cast("asyncio.Transport", _Joined(transport)))
        self.loop.call_later(self.config.timeout_keep_alive, self._end_unused)

    def _end_unused(self) -> None:
        cycle = cast("object", self.cycle)  # None before the first request
        if cycle is None:
            self.transport.close()


def settings(app: ASGIApp, config: ServeConfig) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(config.drain),
        ssl_certfile=config.tls_cert,
        ssl_keyfile=config.tls_key,
    )


def run(order: Order) -> None:
    """Serve until a signal ends it."""
    if order.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, order.cores)
    limit_pixels(order.config.max_pixels)
    refuse_programs()
    service = Service.open(order.bundles, order.config, threads=order.threads)
    server = _Server(build_app(service, records_folder(order.bundles, order.config)), order.config)
    with socket.socket(fileno=order.descriptor) as listening:
        asyncio.run(server.serve([listening]))


def main() -> None:
    """Entry of the process."""
    order = Order.of_line(sys.stdin.readline())
    capture_libraries()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        run(order)
    except PfmError as error:  # who started it says so
        print(json.dumps({"error": str(error)}), flush=True)
        raise SystemExit(error.exit_code) from None


def _end_with_parent() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)
