"""Ordinary inference requests, from their bytes to the bytes of their answer, past framework, tasks and timers.

What is taken here would be answered with the same bytes in the usual way; whatever is not ordinary goes that way.
Refused here is what the engine refuses, and what names a class that is not there: after an erasure many clients ask for
it, and the usual way takes as long for a refusal as several answers here. A test compares both.

A body may come in pieces, as most clients send it: it is gathered where the usual way would read it too, which is where
the head names a model that is there and a tenant that may ask; its bytes count while they wait.

The bundle is the one that the session saw last. A pass looks at the files, and does not answer with a class that is
gone meanwhile: then the request goes the usual way from its start, and is refused as if the class had never been there.
"""

import asyncio
import hashlib
import itertools
import threading
import time

from pfm.errors import PfmError
from pfm_export.service.asking import Asking, Wire
from pfm_export.service.engine import Engine
from pfm_export.service.guard import HEADERS, Guard, Note, refused
from pfm_export.service.outlines import Head, Outlines, read_head
from pfm_export.service.plain import LONGEST_HEAD, Headers, line_of, read_plain
from pfm_export.service.queueing import Job
from pfm_export.service.refusals import RefusedError, too_busy, too_late, too_slow
from pfm_export.service.service import Service
from pfm_export.service.tenants import Right
from pfm_export.serving.answers import Prediction
from pfm_export.serving.kinds import Batch

MOST_HEADS = 512  # that are kept
MOST_SAID = 64  # refusals
ROUTE = "infer"


class Lane:
    """Takes requests off connections; in the thread of the event loop alone.

    Attributes:
        answered, refused: requests, so far; refused for a class, or since too many wait.
    """

    def __init__(self, service: Service, guard: Guard) -> None:
        self._service = service
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._said: dict[tuple[int, str], tuple[bytes, bytes]] = {}
        self._heads: dict[bytes, Head] = {}
        self._outlines = {
            name: Outlines(model, max_rows=service.config.max_batch) for name, model in service.models.items()
        }
        self._jobs: dict[Engine, list[Job]] = {}
        self._waiting: dict[Asking, float] = {}  # until when; the first of them is too late first
        self._timer: asyncio.TimerHandle | None = None
        self.answered = self.refused = 0
        self._done: list[tuple[Asking, int, float]] = []
        self._defaults: tuple[Headers, bytes] = ([], b"")

    def take(self, data: bytes, wire: Wire) -> Asking | None:
        """Have a request answered; None where it is to go the usual way.

        Args:
            data: all that came on a connection that waits for a request.
        """
        end = data.find(b"\r\n\r\n", 0, LONGEST_HEAD) + 4
        if end < 4 or self._guard.is_closing or not self._guard.room.has_room(len(data)):
            return None
        try:
            head = self._head(data, end)
            if head is None or len(data) > end + head.length or head.model not in self._outlines:
                return None
            tenant = self._service.door.find(head.token)
            tenant.require(Right.PREDICT)
            note = Note(route=ROUTE, model=head.model, tag=tenant.tag)
            note.held.whose = self._guard.whose(note, wire.client)
            asking = Asking(self, wire, data, end, head=head, tenant=tenant, note=note)
            if asking.missing:
                if not self._guard.room.has_room(len(data), coming_of=note.held.whose):
                    return None
                self._wait(asking)
            elif not self._begin(asking):
                return None
        except PfmError:  # the usual way says what is wrong
            return None
        self._guard.room.add(note.held, len(data), is_whole=not asking.missing)
        return asking

    def gather(self, asking: Asking, size: int) -> None:
        """So many bytes more of a body have come."""
        if not self._guard.room.add(asking.note.held, size, is_whole=not asking.missing):
            self._break_off(asking, too_busy(1))
        elif not asking.missing:
            del self._waiting[asking]
            try:
                is_begun = self._begin(asking)
            except PfmError:
                is_begun = False
            if not is_begun:
                self._answer_usually(asking)

    def lose(self, asking: Asking) -> None:
        """The connection of a request has ended; one that has begun is answered to nobody."""
        if asking.missing and not asking.response_complete:
            asking.note.why = "gone"
            self._let_go(asking)
            self._log(asking, 0)

    def _begin(self, asking: Asking) -> bool:
        """Read a request that is whole, and have it answered; False where it is to go the usual way.

        Raises:
            PfmError: that too.
        """
        outlines, timeout = self._outlines[asking.head.model], self._service.config.timeout
        engine = outlines.model.engine
        busy = engine.refusal(timeout)
        if busy is not None:  # where there is too much to do, nothing is done for what is not answered
            return self._turn_away(asking, busy)
        try:
            found = outlines.read(asking.body, asking.head.json_length, asking.tenant)
        except RefusedError as error:
            return outlines.is_refused_for_good(error) and self._turn_away(asking, error)
        if found is None:
            return False
        asking.outline, inputs = found
        batch = Batch(inputs, asking.outline.rows.owners, asking.outline.rows.weights, is_plain=True)
        job = engine.job(
            asking, (batch,), len(inputs), asking.outline.chosen, timeout=timeout,
            post=self._loop.call_soon_threadsafe,
        )  # fmt: skip
        if not self._jobs:
            self._loop.call_soon(self._submit)
        self._jobs.setdefault(engine, []).append(job)
        self._wait(asking)
        return True

    def _turn_away(self, asking: Asking, error: RefusedError) -> bool:
        self.refused += 1
        self._loop.call_soon(self._fail, asking, error)
        return True

    def _wait(self, asking: Asking) -> None:
        """For the rest of a request, or for its answer; each may take so long."""
        timeout = self._service.config.timeout
        self._waiting[asking] = time.monotonic() + timeout
        if self._timer is None:
            self._timer = self._loop.call_later(timeout, self._look)

    def _submit(self) -> None:
        """What came at the same time waits together: a pass that was begun for the first would leave the others."""
        waiting, self._jobs = self._jobs, {}
        for engine, jobs in waiting.items():
            for job, error in engine.submit_all(jobs):
                job.answer.set_exception(error)

    def _head(self, data: bytes, end: int) -> Head | None:
        key = hashlib.sha256(data[:end]).digest()
        found = self._heads.get(key)
        if found is None and (request := read_plain(data)) is not None:
            self._guard.check(request.headers, Note())
            found = read_head(request, self._service.door)
            if found is not None:
                if len(self._heads) >= MOST_HEADS:
                    self._heads.clear()
                self._heads[key] = found
        return found

    def answer(self, asking: Asking, prediction: Prediction) -> None:
        """Send an answer."""
        if not asking.response_complete:
            assert asking.outline is not None  # it was not refused
            self.answered += 1
            asking.note.active = len(prediction.classes)
            self._send(asking, 200, *asking.outline.written(asking.note.model, prediction))

    def post_failure(self, asking: Asking, error: BaseException) -> None:
        """Say that there is none, from any thread."""
        try:
            is_here = threading.get_ident() == self._thread
            call = self._loop.call_soon if is_here else self._loop.call_soon_threadsafe  # which wakes the loop
            call(self._fail, asking, error)
        except RuntimeError:  # the loop is closed, and nobody waits
            return

    def _fail(self, asking: Asking, error: BaseException) -> None:
        if asking.response_complete:
            return
        if isinstance(error, RefusedError):
            self._send(asking, error.status, *self._saying(error, asking.note))
            return
        self._answer_usually(asking)  # a class is not there any more, or a file

    def _answer_usually(self, asking: Asking) -> None:
        whole = asking.whole
        self._let_go(asking)
        asking.wire.answer_usually(whole)

    def _break_off(self, asking: Asking, error: RefusedError) -> None:
        """Refuse a request whose rest may still come, which nobody reads."""
        asking.keep_alive = False
        self._fail(asking, error)

    def _saying(self, error: RefusedError, note: Note) -> tuple[bytes, bytes]:
        """Headers and body of an answer that refuses."""
        note.why = error.why
        key = error.status, str(error)
        found = self._said.get(key)
        if found is None:
            answer = refused(error, note)
            headers = b"".join(b"%s: %s\r\n" % header for header in answer.raw_headers)
            if len(self._said) >= MOST_SAID:
                self._said.clear()
            found = self._said[key] = (headers, bytes(answer.body))
        return found

    def _send(self, asking: Asking, status: int, headers: bytes, body: bytes) -> None:
        self._let_go(asking)
        is_last = not asking.keep_alive or self._guard.is_closing
        message = b"".join((
            line_of(status), self._always(asking.wire.default_headers), headers, b"x-request-id: ",
            asking.note.id.encode(), b"\r\nconnection: close\r\n\r\n" if is_last else b"\r\n\r\n", body,
        ))  # fmt: skip
        asking.wire.send_answer(message, is_last=is_last)
        self._log(asking, status)

    def _let_go(self, asking: Asking) -> None:
        asking.response_complete = True
        self._guard.room.let_go(asking.note.held)
        self._waiting.pop(asking, None)
        asking.release()

    def _log(self, asking: Asking, status: int) -> None:
        if not self._done:
            self._loop.call_soon(self._tell)
        self._done.append((asking, status, time.monotonic() - asking.begun))

    def _always(self, defaults: Headers) -> bytes:
        """Headers of every answer; uvicorn makes its own anew each second."""
        if self._defaults[0] is not defaults:
            self._defaults = (defaults, b"".join(b"%s: %s\r\n" % header for header in (*defaults, *HEADERS)))
        return self._defaults[1]

    def _tell(self) -> None:
        """Metrics and log of the answers of a pass, when they are sent."""
        done, self._done = self._done, []
        self._guard.tell([(asking.note, status, seconds) for asking, status, seconds in done])

    def _look(self) -> None:
        """Give up what is too late; each waits as long as the others, so that the first of them is the oldest."""
        now = time.monotonic()
        for late in list(itertools.takewhile(lambda asking: self._waiting[asking] <= now, self._waiting)):
            if late.missing:
                self._break_off(late, too_slow())
            else:
                late.cancel()
                self._fail(late, too_late())
        self._timer = None  # only now, since a request that was held back behind one given up begins to wait
        if self._waiting:
            first = next(iter(self._waiting.values()))
            self._timer = self._loop.call_later(first - now, self._look)
