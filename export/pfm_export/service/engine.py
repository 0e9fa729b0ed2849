"""One bundle's passes: a thread takes what waits, as much as fits, and answers it with one pass.

Nothing waits for company: while one pass runs the next one gathers, so that batches are as large as the load makes
them, and a request alone is answered at once, bit for bit as the session answers it.

What was erased before a request started is not among its answers: the session looks at the bundle's files when a pass
begins, which is later, and again when it ends.
"""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Protocol

import numpy as np

from pfm_export.service.logs import log_error
from pfm_export.service.pass_times import PassTimes
from pfm_export.service.queueing import Answer, Job, Post, Queue
from pfm_export.service.refusals import RefusedError, closing, too_busy
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch

LONG_PASS = 0.25  # seconds that the rows of several requests may add to a pass: slower ones gain nothing by company


class Answerer(Protocol):
    """What an engine needs of a session."""

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        """One set for all items."""
        ...

    def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        """A set for each item."""
        ...


class Watcher(Protocol):
    """Is told what an engine does; a metric."""

    def queue(self, rows: int) -> None:
        """So many rows wait."""
        ...

    def passed(self, rows: int, seconds: float, waited: Sequence[float]) -> None:
        """A pass is over; how long each of its requests had waited."""
        ...


class Engine:
    """Gathers requests into passes; any thread may submit.

    Args:
        answerer: the session.
        mixes_sets, shares_passes: what may share a pass, see `Queue`.
        max_batch: rows of one pass; fewer where a row takes long, see `LONG_PASS`.
        max_queue: rows that may wait.
        answer_within: seconds that a request may take, its pass with it; None leaves it to the request's own time.
        watcher: is told of queue and passes.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        answerer: Answerer,
        *,
        mixes_sets: bool,
        shares_passes: bool = True,
        max_batch: int,
        max_queue: int,
        answer_within: float | None = None,
        watcher: Watcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answerer = answerer
        self._max_batch = max_batch
        self._queue = Queue(
            most_rows=max_queue, mixes_sets=mixes_sets, shares_passes=shares_passes, answer_within=answer_within
        )
        self._watcher = watcher
        self._clock = clock
        self._times = PassTimes()
        self._ends: dict[int, float] = {}  # when a pass that runs should be over, by its thread
        self._changed = threading.Condition()
        self._is_closing = False
        self._threads: list[threading.Thread] = []

    def submit(
        self, batches: Sequence[Batch], count: int, chosen: ActiveSet, *, timeout: float, post: Post | None = None
    ) -> "Future[Prediction]":
        """Let a request wait for its pass.

        Args:
            timeout, post: as of `job`; without `post` the thread of the pass gives the answer.

        Raises:
            RefusedError: the queue is full, or the engine is closing.
        """
        answer: Future[Prediction] = Future()
        job = self.job(answer, batches, count, chosen, timeout=timeout, post=post or _call)
        for _, error in self.submit_all([job]):
            raise error
        return answer

    def job(
        self, answer: Answer, batches: Sequence[Batch], count: int, chosen: ActiveSet, *, timeout: float, post: Post
    ) -> Job:
        """A request as `submit_all` takes it.

        Args:
            answer: what becomes of it.
            count: of the items, each of which has a row.
            timeout: seconds after which it is not begun any more.
            post: how the answer is handed over, see `Job`.
        """
        now = self._clock()
        return Job(
            batches=tuple(batches), count=count, chosen=chosen, arrived=now, deadline=now + timeout, post=post,
            answer=answer,
        )  # fmt: skip

    def submit_all(self, jobs: Sequence[Job]) -> list[tuple[Job, RefusedError]]:
        """Let requests wait for their pass, which takes them together; those that are refused, and why."""
        left: list[tuple[Job, RefusedError]] = []
        with self._changed:
            is_free = self._is_idle
            for job in jobs:
                refusal = self._refusal(job.rows, job.deadline - job.arrived)
                if refusal is None:
                    self._queue.put(job, is_free=is_free)
                else:
                    left.append((job, refusal))
            self._tell_queue()
            self._changed.notify()
        return left

    def refusal(self, timeout: float) -> RefusedError | None:
        """What a small request would be refused with that came now, whatever is in it; None where it would not be.

        Args:
            timeout: seconds that it has.
        """
        with self._changed:
            return self._refusal(1, timeout)

    def step(self) -> bool:
        """One pass; False where nothing waited."""
        with self._changed:
            begun = self._clock()
            jobs, tired = self._queue.take(self._most_rows, begun, self._times.expected)
            self._tell_queue()
            busy, rows = self._busy(), sum(job.rows for job in jobs)
            if self._queue:  # several may have come at once, and one thread was woken for them
                self._changed.notify()
            if jobs:
                self._ends[threading.get_ident()] = begun + self._times.expected(rows)
        _hand_over([(job, partial(job.answer.set_exception, busy)) for job in tired])
        if not jobs:
            return bool(tired)
        ended = _answered(self._answerer, jobs)
        seconds = self._clock() - begun
        with self._changed:  # before the answers, to which the next requests may be
            del self._ends[threading.get_ident()]
            self._times.add(rows, seconds)
        _hand_over(ended)
        if self._watcher is not None:
            self._watcher.passed(rows, seconds, [begun - job.arrived for job in jobs])
        return True

    @property
    def _most_rows(self) -> int:
        """Of the next pass, where it is of several requests."""
        return self._times.most_rows(LONG_PASS, self._max_batch)

    @property
    def _is_idle(self) -> bool:
        """Whether a thread waits for the next request."""
        return not self._queue and len(self._ends) < max(1, len(self._threads))

    def _refusal(self, rows: int, left: float) -> RefusedError | None:
        """Of a request that comes now.

        Args:
            left: seconds that it has.
        """
        if self._is_closing:
            return closing()
        is_taken = self._takes(rows) <= self._queue.longest(left) and self._queue.has_room(rows)
        return None if is_taken else self._busy()

    def _takes(self, rows: int) -> float:
        """Seconds that a request of so many rows should take that comes now; 0 where none was measured or waits."""
        if self._is_idle or not self._times.is_known:
            return 0.0
        threads, most = max(1, len(self._threads)), self._most_rows
        rest = min(self._ends.values()) - self._clock() if len(self._ends) >= threads else 0.0
        passes, ahead = self._queue.passes_ahead(most)
        own = self._times.expected(self._queue.rows - ahead + rows)
        return max(0.0, rest) + self._times.expected(ahead, passes=passes) / threads + own

    def _busy(self) -> RefusedError:
        return too_busy(self._times.expected(self._queue.rows))

    def start(self, passes: int = 1, first: Callable[[], None] | None = None) -> None:
        """Answer from now on, in a thread for each of the passes that may run at a time.

        Args:
            first: done by each thread before it answers, and before this returns; what it raises is raised here.
        """
        for _ in range(passes):
            is_warm: Future[None] = Future()
            thread = threading.Thread(target=self._run, args=(first, is_warm), name="passes", daemon=True)
            self._threads.append(thread)
            thread.start()
            is_warm.result()

    def close(self, seconds: float) -> None:
        """Take no more, and answer what waits; what is not answered in time is refused."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with self._changed:
            for job in self._queue.take_all():
                job.answer.set_exception(closing())

    def _run(self, first: Callable[[], None] | None, is_warm: "Future[None]") -> None:
        try:
            if first is not None:
                first()
        except Exception as error:  # it is raised where the thread was started
            is_warm.set_exception(error)
            return
        is_warm.set_result(None)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self._queue) > 0 or self._is_closing)
                if not self._queue:
                    return
            try:
                self.step()
            except Exception as error:  # of the watcher; the answers are given by then, and the next ones have to be
                log_error("bug", error)

    def _tell_queue(self) -> None:
        if self._watcher is not None:
            self._watcher.queue(self._queue.rows)


def _answered(answerer: Answerer, jobs: Sequence[Job]) -> list[tuple[Job, Callable[[], None]]]:
    """What becomes of jobs that were taken; where that fails for several, each is tried alone: none harms another."""
    try:
        found = _together(answerer, jobs)
    except Exception as error:  # it is raised where the request's answer is waited for
        if len(jobs) == 1:
            return [(jobs[0], partial(jobs[0].answer.set_exception, error))]
        return [ended for job in jobs for ended in _answered(answerer, [job])]
    return [(job, partial(job.answer.set_result, prediction)) for job, prediction in zip(jobs, found, strict=True)]


def _hand_over(ended: Sequence[tuple[Job, Callable[[], None]]]) -> None:
    """Say what became of jobs, by one call for each place where they are waited for."""
    for post in dict.fromkeys(job.post for job, _ in ended):
        says = [say for job, say in ended if job.post == post]

        def give(says: Sequence[Callable[[], None]] = says) -> None:
            for say in says:
                try:
                    say()
                except Exception as error:  # of one answer; the others of its pass are given all the same
                    log_error("bug", error)

        try:
            post(give)
        except RuntimeError:  # the loop is closed: nobody waits there any more
            give()


def _call(give: Callable[[], None]) -> None:
    give()


def _together(answerer: Answerer, jobs: Sequence[Job]) -> list[Prediction]:
    if len(jobs) == 1:
        (job,) = jobs
        return [answerer.predict_prepared(job.batches, job.count, job.chosen)]
    parts = [job.batches[0] for job in jobs]
    firsts = [0, *itertools.accumulate(job.count for job in jobs)]
    inputs = np.concatenate([part.inputs for part in parts])
    if all(part.is_plain for part in parts):
        merged = Batch.of_items(range(firsts[-1]), inputs)
    else:
        owners = [part.owners + first for part, first in zip(parts, firsts[:-1], strict=True)]
        merged = Batch(inputs, np.concatenate(owners), np.concatenate([part.weights for part in parts]))
    each = answerer.predict_each_prepared([merged], [job.chosen for job in jobs for _ in range(job.count)])
    return [_joined(each[first:last]) for first, last in itertools.pairwise(firsts)]


def _joined(items: Sequence[Prediction]) -> Prediction:
    """Predictions of one item each, of one set."""
    if len(items) == 1:
        return items[0]
    return Prediction(
        [item.labels[0] for item in items],
        items[0].classes,
        np.concatenate([item.probabilities for item in items]),
        items[0].is_exact,
    )
