"""The process that a user starts: it binds the port, and keeps so many workers running that accept on it.

All workers accept on one socket. A worker that dies takes the requests it was answering with it; the others go on, and
connections that were not accepted yet are theirs. It is started again.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pfm.device import available_cores
from pfm.errors import ConfigError, PfmError
from pfm_export.service.config import ServeConfig
from pfm_export.service.logs import log, log_error
from pfm_export.service.orders import READY, SHARED, Named, Order, forget_process, records_folder
from pfm_export.service.tenants import read_tokens
from pfm_export.serving.manifest import is_bundle, no_bundle_at

BACKLOG = 1024  # connections that nobody accepted yet
LOOK_SECONDS = 0.1  # how often it is looked whether a worker died
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before one that died is started again
STEADY_SECONDS = 60.0  # after which a worker has not died at its start
GRACE = 5.0  # seconds beside those of the drain, before a worker is killed


class Supervisor:
    """Workers on one socket.

    Args:
        tell: is told the address when all workers are ready.
    """

    def __init__(self, bundles: Sequence[Named], config: ServeConfig, tell: Callable[[str], None]) -> None:
        self._bundles = tuple(bundles)
        self._config = config
        self._tell = tell
        self._is_stopping = threading.Event()
        self._workers: list[_Worker] = []

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            PfmError: a worker cannot start.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        records_folder(self._bundles, self._config)
        if self._config.tokens is not None:
            read_tokens(self._config.tokens)
        check_tls(self._config)
        for bundle in self._bundles:  # which a worker opens, and so behind the port
            if not is_bundle(bundle.folder):
                raise no_bundle_at(bundle.folder)
        listening = bind(self._config)
        metrics = Path(tempfile.mkdtemp(prefix="pfm-metrics-"))
        try:
            for number in range(self._config.workers):
                self._workers.append(_Worker(self._order(listening, number), metrics))
            for worker in self._workers:
                worker.start()
            for worker in self._workers:
                worker.wait_ready(self._is_stopping)
            host, port = listening.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            if not self._is_stopping.is_set():
                self._tell(f"{self._config.scheme}://{shown}:{port}")
            while not self._is_stopping.wait(LOOK_SECONDS):
                for worker in self._workers:
                    worker.look()
        finally:
            listening.close()
            self._stop()
            shutil.rmtree(metrics, ignore_errors=True)

    def _on_signal(self, _: int, __: object) -> None:
        self._is_stopping.set()
        for worker in self._workers:
            worker.end()  # also one that is not ready yet

    def _order(self, listening: socket.socket, number: int) -> Order:
        threads, cores = shares(self._config, number)
        return Order(
            bundles=self._bundles, config=self._config, descriptor=listening.fileno(), threads=threads, cores=cores
        )

    def _stop(self) -> None:
        for worker in self._workers:
            worker.end()
        until = time.monotonic() + self._config.drain + GRACE
        for worker in self._workers:
            worker.join(until)


class _Worker:
    """One process, started again when it dies."""

    def __init__(self, order: Order, metrics: Path) -> None:
        self._order = order
        self._metrics = metrics
        self._process: subprocess.Popen[str] | None = None
        self._pause = FIRST_PAUSE
        self._started = self._again = 0.0

    def start(self) -> None:
        """Start the process; it is not ready yet."""
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from pfm_export.service.worker import main; main()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # so that Ctrl-C reaches this process alone, which then asks them to end
            pass_fds=(self._order.descriptor,),
            env={**os.environ, "PYTHONPATH": path, SHARED: str(self._metrics)},
        )
        self._started = time.monotonic()
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is seen to where it is waited for
            self._process.stdin.write(self._order.to_line())
            self._process.stdin.flush()

    def wait_ready(self, is_stopping: threading.Event) -> None:
        """Wait until it takes connections.

        Raises:
            PfmError: it cannot.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.strip() != READY and not is_stopping.is_set():
            told = json.loads(line)["error"] if line.startswith("{") else "it ended before it was ready"
            raise PfmError(told)

    def look(self) -> None:
        """Start it again where it died, after a pause that grows while it dies at once."""
        if self._process is None:
            if time.monotonic() >= self._again:
                try:
                    self.start()
                except OSError as error:  # no memory, or no process to be had: the others go on
                    self._started = time.monotonic()
                    log_error("worker not started", error, again_in_seconds=self._put_off())
            return
        code = self._process.poll()
        if code is None:
            return
        log("worker ended", code=code, again_in_seconds=self._put_off())
        forget_process(self._metrics, self._process.pid)
        self._close()

    def _put_off(self) -> float:
        """Seconds until it is started again."""
        now = time.monotonic()
        self._pause = FIRST_PAUSE if now - self._started > STEADY_SECONDS else min(2 * self._pause, LONGEST_PAUSE)
        self._again = now + self._pause
        return self._pause

    def end(self) -> None:
        """Ask it to end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def join(self, until: float) -> None:
        """Wait for its end; kill it when the time is over."""
        if self._process is None:
            return
        try:
            self._process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            log("worker killed", why="it did not end in time")
            self._process.kill()
            self._process.wait()
        self._close()

    def _close(self) -> None:
        assert self._process is not None
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # what it was told and did not live to read
                    pipe.close()
        self._process = None


def bind(config: ServeConfig) -> socket.socket:
    """A socket that listens.

    Raises:
        ConfigError: the address is not there, or taken.
    """
    try:
        found = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        listening = socket.socket(found[0][0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(found[0][4])
        listening.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}, port {config.port}: {error.strerror}") from error
    return listening


def check_tls(config: ServeConfig) -> None:
    """
    Raises:
        ConfigError: certificate and key cannot be used.
    """
    if config.tls_cert is None or config.tls_key is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, password=lambda: "")
    except (OSError, ValueError) as error:  # of ssl's own too, which are of the first kind
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"--tls_cert {config.tls_cert} and --tls_key {config.tls_key} are not a certificate (PEM) and its key, "
            f"without a passphrase: {reason}"
        ) from error


def shares(config: ServeConfig, number: int) -> tuple[int, tuple[int, ...]]:
    """Threads that a pass has or may have, and the cores that are a worker's own; 0 and none for a worker alone.

    Args:
        number: of the worker, from 0.
    """
    if config.threads is not None:
        return config.threads, ()
    there = available_cores()
    if config.workers == 1:  # ONNX Runtime would count the machine's cores, also those that are not for this process
        return (0 if len(there) == os.cpu_count() else len(there)), ()
    share = len(there) // config.workers
    return max(1, share), tuple(there[number * share : (number + 1) * share])
