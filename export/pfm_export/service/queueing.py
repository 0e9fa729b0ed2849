"""Requests that wait for a pass: how many there may be, and which go together.

Letters: B rows of graph inputs.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pfm_export.service.refusals import too_late
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch

Post = Callable[[Callable[[], None]], object]


class Answer(Protocol):
    """What becomes of a request; a `Future` is one."""

    def cancelled(self) -> bool:
        """Nobody waits for it any more."""
        ...

    def set_running_or_notify_cancel(self) -> bool:
        """Its pass begins; False where nobody waits any more."""
        ...

    def set_result(self, result: Prediction, /) -> None:
        """Here it is."""
        ...

    def set_exception(self, exception: BaseException, /) -> None:
        """There is none."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One request.

    Attributes:
        batches: its graph inputs; those of one batch may share a pass with others.
        count: of the items that they are.
        chosen: classes that they may be answered with.
        arrived, deadline: on the engine's clock, in seconds.
        post: has a function called where the answer is waited for, such as an event loop's `call_soon_threadsafe`;
            answers of one pass with the same one go out by one call.
        answer: what becomes of it.
        rows: B.
    """

    batches: tuple[Batch, ...]
    count: int
    chosen: ActiveSet
    arrived: float
    deadline: float
    post: Post
    answer: Answer
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", sum(len(batch.inputs) for batch in self.batches))


class Queue:
    """Jobs in the order in which they came; not locked.

    Args:
        most_rows: that may wait.
        mixes_sets: whether one pass serves several active sets at less than the cost of several passes.
        shares_passes: whether requests may share a pass at all.
        answer_within: seconds from a job's arrival to the end of its pass; None where only its deadline counts.
    """

    def __init__(
        self, *, most_rows: int, mixes_sets: bool, shares_passes: bool = True, answer_within: float | None = None
    ) -> None:
        self._most_rows = most_rows
        self._answer_within = math.inf if answer_within is None else answer_within
        self._shares_passes = shares_passes
        self._mixes_sets = mixes_sets
        self._jobs: deque[Job] = deque()
        self._found_free: set[Job] = set()
        self.rows = 0

    def __len__(self) -> int:
        return len(self._jobs)

    def has_room(self, rows: int) -> bool:
        """Whether a job of so many rows may wait; one alone always may."""
        return not self._jobs or self.rows + rows <= self._most_rows

    def longest(self, left: float) -> float:
        """Seconds that a request may take which has so many."""
        return min(left, self._answer_within)

    def put(self, job: Job, *, is_free: bool = False) -> None:
        """Let a job wait.

        Args:
            is_free: a thread has nothing else to do, so that the job is answered however long it takes to wake.
        """
        if is_free:
            self._found_free.add(job)
        self._jobs.append(job)
        self.rows += job.rows

    def passes_ahead(self, most_rows: int) -> tuple[int, int]:
        """Passes that a job which is put now waits for, at least, and the rows of all of them.

        Args:
            most_rows: of a pass that several share; only whole ones count.
        """
        if not self._shares_passes:
            return len(self._jobs), self.rows
        passes = self.rows // most_rows
        return passes, passes * most_rows

    def take(self, most_rows: int, now: float, pass_seconds: Callable[[int], float]) -> tuple[list[Job], list[Job]]:
        """The oldest job and those that fit into one pass with it, and those that it would come too late for.

        What is late or was given up is taken out.

        Args:
            pass_seconds: of a pass of so many rows.
        """
        waiting, tired = self._in_time(now), list[Job]()
        if self._answer_within < math.inf:
            tired = self._tired(waiting, most_rows, now, pass_seconds)
            waiting = _without(waiting, tired)
        taken = self._gathered(waiting, most_rows)
        self._jobs = deque(_without(waiting, taken))
        self.rows = sum(job.rows for job in self._jobs)
        self._found_free.clear()
        return _begun(taken), _begun(tired)

    def _tired(
        self, waiting: Sequence[Job], most_rows: int, now: float, pass_seconds: Callable[[int], float]
    ) -> list[Job]:
        """Jobs for which a pass of their own would be too late, or the next one is, as it is without them."""
        tired = more = [job for job in waiting if self._is_late(job, now + pass_seconds(job.rows))]
        while True:
            waiting = _without(waiting, more)
            taken = self._gathered(waiting, most_rows)
            ends = now + pass_seconds(sum(job.rows for job in taken))
            more = [job for job in taken if self._is_late(job, ends)]
            if not more:
                return tired
            tired = tired + more

    def _in_time(self, now: float) -> list[Job]:
        """Jobs that somebody waits for; the others are told."""
        waiting: list[Job] = []
        for job in self._jobs:
            if job.answer.cancelled():
                continue
            if job.deadline > now:
                waiting.append(job)
            elif job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(too_late())
        return waiting

    def _gathered(self, waiting: Sequence[Job], most_rows: int) -> list[Job]:
        taken: list[Job] = []
        rows = 0
        for job in waiting:
            if not taken or (rows + job.rows <= most_rows and self._share(taken[0], job)):
                taken.append(job)
                rows += job.rows
        return taken

    def _is_late(self, job: Job, ends: float) -> bool:
        """Whether a pass that ends then is too late for a job."""
        return ends - job.arrived > self._answer_within and job not in self._found_free

    def take_all(self) -> list[Job]:
        """Everything that waits and was not given up."""
        jobs, self._jobs, self.rows = list(self._jobs), deque(), 0
        return _begun(jobs)

    def _share(self, first: Job, other: Job) -> bool:
        """Whether two jobs can share a pass: inputs of one shape, and one set where sets do not mix."""
        if not self._shares_passes or len(first.batches) != 1 or len(other.batches) != 1:
            return False
        one, two = first.batches[0].inputs, other.batches[0].inputs
        is_alike = one.shape[1:] == two.shape[1:] and one.dtype == two.dtype
        return is_alike and (self._mixes_sets or first.chosen == other.chosen)


def _begun(jobs: Sequence[Job]) -> list[Job]:
    """Those that nobody has given up meanwhile."""
    return [job for job in jobs if job.answer.set_running_or_notify_cancel()]


def _without(jobs: Sequence[Job], gone: Sequence[Job]) -> list[Job]:
    """The others, in their order."""
    left_out = set(gone)
    return [job for job in jobs if job not in left_out]
