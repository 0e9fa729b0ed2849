"""A server process: it is told what to serve on standard input, says on standard output when it is ready.

It ends when it is told to, or when standard input closes: then the process that started it is gone.
"""

import asyncio
import contextlib
import gc
import json
import math
import os
import signal
import socket
import sys
import threading

import uvicorn
from starlette.types import ASGIApp

from pfm.data import packed_frames
from pfm.data.dicom import load_dicom
from pfm.data.pixels import limit_pixels, refuse_bombs
from pfm.data.waves import limit_resampling
from pfm.errors import PfmError
from pfm_export.service.app import build_app
from pfm_export.service.clerk import Clerk
from pfm_export.service.config import ServeConfig
from pfm_export.service.connection import Connection
from pfm_export.service.guard import Guard
from pfm_export.service.logs import capture_libraries
from pfm_export.service.orders import READY, Order, records_folder
from pfm_export.service.service import Service
from pfm_export.service.turns import ask_for_short_turns
from pfm_export.serving.switching import INTERVAL

KEEP_ALIVE = 60  # seconds that a connection may say nothing
MOST_TAPS = 10**6  # of a resampling kernel; usual rates need less than a third


class _Server(uvicorn.Server):
    """Says when it takes connections, and to the application when it takes no more."""

    def __init__(self, app: Guard, config: ServeConfig) -> None:
        super().__init__(settings(app, config))
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        ask_for_short_turns()
        gc.collect()
        gc.freeze()  # what was loaded is not looked through again while requests wait
        print(READY, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.is_closing = True
        await super().shutdown(sockets)


def settings(app: ASGIApp, config: ServeConfig) -> uvicorn.Config:
    """How uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=Connection,
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
    sys.setswitchinterval(INTERVAL)  # while a pass or a change computes in Python, requests go on being read
    limit_pixels(order.config.max_pixels)
    refuse_bombs()
    limit_resampling(MOST_TAPS)
    load_dicom()
    packed_frames.limit()
    service = Service.open(order.bundles, order.config, threads=order.threads)
    records = records_folder(order.bundles, order.config)
    clerk = Clerk(order.bundles, records, service.metrics.changed)
    server = _Server(build_app(service, records, clerk), order.config)
    with contextlib.closing(clerk), socket.socket(fileno=order.descriptor) as listening:
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
