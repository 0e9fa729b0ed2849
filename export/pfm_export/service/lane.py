"""Ordinary inference requests, from their bytes to the bytes of their answer, past framework, tasks and timers.

What is taken here would be answered with the same bytes in the usual way; whatever is not ordinary goes that way.
Refused here is what the engine refuses, and what names a class that is not there: after an erasure many clients ask for
it, and the usual way takes as long for a refusal as several answers here. A test compares both.

The bundle is the one that the session saw last. A pass looks at the files, and does not answer with a class that is
gone meanwhile: then the request goes the usual way from its start, and is refused as if the class had never been there.
"""

import asyncio
import hashlib
import threading
import time
from collections import deque
from typing import Protocol

from pfm.errors import PfmError
from pfm_export.service.engine import Engine
from pfm_export.service.guard import HEADERS, Guard, Note, refused
from pfm_export.service.outlines import Head, Outline, Outlines, read_head
from pfm_export.service.plain import LONGEST_HEAD, Headers, line_of, read_plain
from pfm_export.service.queueing import Job
from pfm_export.service.refusals import RefusedError, too_late
from pfm_export.service.service import Service
from pfm_export.serving.answers import Prediction
from pfm_export.serving.kinds import Batch

MOST_HEADS = 512  # that are kept
MOST_SAID = 64  # refusals
ROUTE = "infer"


class Wire(Protocol):
    """A connection, as an answer needs it."""

    def send_answer(self, message: bytes, *, is_last: bool) -> None:
        """Send all of an answer, and end the connection where it is the last one."""
        ...

    def answer_usually(self, data: bytes) -> None:
        """Have a request answered in the usual way."""
        ...

    @property
    def default_headers(self) -> Headers:
        """Of every answer."""
        ...


class _Nobody:
    def set(self) -> None:
        """Nobody waits for it."""


class Asking:
    """A request on its way: to the engine what becomes of it, to uvicorn a cycle like its own."""

    message_event = _Nobody()

    def __init__(self, lane: "Lane", wire: Wire, data: bytes, outline: Outline | None, note: Note) -> None:
        self.keep_alive, self.response_complete, self.disconnected = True, False, False
        self.wire, self.data, self.outline, self.note = wire, data, outline, note
        self.begun = time.monotonic()
        self._lane = lane
        self._is_given_up = False

    def cancelled(self) -> bool:
        """Nobody waits any more."""
        return self._is_given_up

    def cancel(self) -> bool:
        """It is not to be begun any more."""
        self._is_given_up = True
        return True

    def set_running_or_notify_cancel(self) -> bool:
        """Whether its pass may begin."""
        return not self._is_given_up

    def set_result(self, prediction: Prediction) -> None:
        """Here it is; called where the loop runs."""
        self._lane.answer(self, prediction)

    def set_exception(self, error: BaseException) -> None:
        """There is none; called in any thread."""
        self._lane.post_failure(self, error)


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
        self._gathered: dict[Engine, list[Job]] = {}
        self._waiting: deque[Asking] = deque()  # in the order in which they are too late
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
        if end < 4 or self._guard.is_closing or not self._guard.has_room(len(data)):
            return None
        try:
            head = self._head(data, end)
            if head is None or len(data) != end + head.length or head.model not in self._outlines:
                return None
            tenant = self._service.door.find(head.token)
            outlines = self._outlines[head.model]
            note = Note(route=ROUTE, model=head.model, tag=tenant.tag, held=len(data))
            busy = outlines.model.engine.refusal(self._service.config.timeout)
            if busy is not None:  # where there is too much to do, nothing is done for what is not answered
                return self._turn_away(Asking(self, wire, data, None, note), busy)
            try:
                found = outlines.read(memoryview(data)[end:], head.json_length, tenant)
            except RefusedError as error:
                return self._refuse(Asking(self, wire, data, None, note), outlines, error)
        except PfmError:  # the usual way says what is wrong
            return None
        if found is None:
            return None
        outline, inputs = found
        asking = Asking(self, wire, data, outline, note)
        self._guard.hold(len(data))
        batch = Batch(inputs, outline.rows.owners, outline.rows.weights, is_plain=True)
        engine = outlines.model.engine
        job = engine.job(
            asking, (batch,), len(inputs), outline.chosen, timeout=self._service.config.timeout,
            post=self._loop.call_soon_threadsafe,
        )  # fmt: skip
        if not self._gathered:
            self._loop.call_soon(self._submit)
        self._gathered.setdefault(engine, []).append(job)
        self._waiting.append(asking)
        if self._timer is None:
            self._timer = self._loop.call_later(self._service.config.timeout, self._look)
        return asking

    def _refuse(self, asking: Asking, outlines: Outlines, error: RefusedError) -> Asking | None:
        """Refuse a request for a class that is not there; None where it is to go the usual way."""
        if not outlines.is_refused_for_good(error):
            return None
        return self._turn_away(asking, error)

    def _turn_away(self, asking: Asking, error: RefusedError) -> Asking:
        self.refused += 1
        self._guard.hold(asking.note.held)
        self._loop.call_soon(self._fail, asking, error)
        return asking

    def _submit(self) -> None:
        """What came at the same time waits together: a pass that was begun for the first would leave the others."""
        gathered, self._gathered = self._gathered, {}
        for engine, jobs in gathered.items():
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
        self._let_go(asking)  # a class is not there any more, or a file
        asking.wire.answer_usually(asking.data)

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
        if not self._done:
            self._loop.call_soon(self._tell)
        self._done.append((asking, status, time.monotonic() - asking.begun))

    def _let_go(self, asking: Asking) -> None:
        asking.response_complete = True
        self._guard.hold(-asking.note.held)
        while self._waiting and self._waiting[0].response_complete:
            self._waiting.popleft()

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
        """Give up what is too late; the same time is for all, so that the first of them is the oldest."""
        self._timer = None
        now, timeout = time.monotonic(), self._service.config.timeout
        while self._waiting and (self._waiting[0].response_complete or self._waiting[0].begun + timeout <= now):
            late = self._waiting.popleft()
            if not late.response_complete:
                late.cancel()
                self._fail(late, too_late())
        if self._waiting:
            self._timer = self._loop.call_later(self._waiting[0].begun + timeout - now, self._look)
