"""What is counted and timed, in Prometheus' text format; several processes add up in files of one folder.

No class, tenant or client is named in any of it.
"""

# pyright: reportUnknownMemberType=false
# prometheus_client leaves some of its parameters without types

import os
from collections import deque
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from pfm_export.service.orders import SHARED

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


def size_class(count: int) -> str:
    """How many classes were active, rounded up to a power of two: a label has few values."""
    return str(1 << max(0, count - 1).bit_length())


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = here = CollectorRegistry()
        self._requests = Counter("pfm_requests", "Requests, by status.", ["model", "route", "status"], registry=here)
        self._seconds = Histogram(
            "pfm_request_seconds", "From the head of a request to its answer; active classes rounded up to 2^n.",
            ["model", "route", "active"], buckets=SECONDS, registry=here,
        )  # fmt: skip
        self._refusals = Counter("pfm_refusals", "Requests that were refused, by reason.", ["why"], registry=here)
        self._changes = Counter("pfm_changes", "Classes erased, suspended, restored.", ["model", "what"], registry=here)
        self._queue = Gauge(
            "pfm_queue_rows",
            "Rows that wait for a pass.",
            ["model"],
            multiprocess_mode="livesum",
            registry=here,
        )
        self._waited = Histogram(
            "pfm_queue_seconds",
            "How long a request waited for its pass.",
            ["model"],
            buckets=SECONDS,
            registry=here,
        )
        self._batch = Histogram("pfm_batch_rows", "Rows of a pass.", ["model"], buckets=ROWS, registry=here)
        self._pass = Histogram("pfm_pass_seconds", "Time of a pass.", ["model"], buckets=SECONDS, registry=here)
        self._threads = Gauge(
            "pfm_pass_threads", "Threads of a pass on the CPU, the most of any worker; 0 where they are not counted.",
            ["model"], multiprocess_mode="livemax", registry=here,
        )  # fmt: skip
        self._watchers: list[EngineMetrics] = []
        self._counters: dict[tuple[str, str, int], Counter] = {}  # looking one up by its labels costs as much as it
        self._timers: dict[tuple[str, str, str], Histogram] = {}

    def opened(self, model: str, threads: int) -> None:
        """A model is served, with so many threads a pass; 0 is the engine's own choice."""
        self._threads.labels(model).set(threads)

    def answered(self, *, model: str, route: str, status: int, seconds: float, active: int) -> None:
        """A request is over.

        Args:
            active: classes it could be answered with; 0 where it was not answered.
        """
        key = (model, route, status)
        if key not in self._counters:
            self._counters[key] = self._requests.labels(model, route, str(status))
        self._counters[key].inc()
        if active:
            timed = (model, route, size_class(active))
            if timed not in self._timers:
                self._timers[timed] = self._seconds.labels(*timed)
            self._timers[timed].observe(seconds)

    def refused(self, why: str) -> None:
        """A request was refused."""
        self._refusals.labels(why).inc()

    def changed(self, model: str, what: str, count: int) -> None:
        """Classes were erased, suspended or restored."""
        self._changes.labels(model, what).inc(count)

    def watcher(self, model: str) -> "EngineMetrics":
        """For the engine of a model."""
        watcher = EngineMetrics(
            self._queue.labels(model), self._waited.labels(model), self._batch.labels(model), self._pass.labels(model)
        )
        self._watchers.append(watcher)
        return watcher

    def catch_up(self) -> None:
        """Count what engines have told; threads that count at the same time hold each other up."""
        for watcher in self._watchers:
            watcher.catch_up()

    def text(self) -> bytes:
        """Of all processes that share a folder, or of this one."""
        self.catch_up()
        if SHARED not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together)


class EngineMetrics:
    """Keeps what an engine tells, for `catch_up`."""

    def __init__(self, queue: Gauge, waited: Histogram, batch: Histogram, one_pass: Histogram) -> None:
        self._queue, self._waited, self._batch, self._pass = queue, waited, batch, one_pass
        self._told: deque[tuple[int, float, Sequence[float]]] = deque()
        self._rows = self._rows_told = 0

    def queue(self, rows: int) -> None:
        """So many rows wait."""
        self._rows = rows

    def passed(self, rows: int, seconds: float, waited: Sequence[float]) -> None:
        """A pass is over."""
        self._told.append((rows, seconds, waited))

    def catch_up(self) -> None:
        """Count it."""
        if self._rows != self._rows_told:
            self._rows_told = self._rows
            self._queue.set(self._rows_told)
        while self._told:
            rows, seconds, waited = self._told.popleft()
            self._batch.observe(rows)
            self._pass.observe(seconds)
            for each in waited:
                self._waited.observe(each)
