"""Worker processes that decode files; the results come back in order, whatever their number.

A worker is a fresh interpreter that reads tasks from its standard input and writes results to its standard output: it
inherits no lock, no thread and no open file of ours, imports nobody's `__main__`, needs no torch unless its job does,
and ends when that input is closed, which the system does for a process that was killed. Ctrl-C, which a terminal sends
to all of them, is left to the process that started them.

Work begins in the calling process; help is called for only when it takes longer than a moment.
"""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np

from pfm.data.pixels import pixel_limit
from pfm.device import available_cores
from pfm.errors import DataError

Source = bytes | Path  # of a file: its bytes, or where they are
PATIENCE_S = 0.5  # about twice what it takes to start a worker
IN_FLIGHT = 2  # tasks that a worker has at a time: one that it works on, one that it goes on with
BATCH = 16  # files of a task
# of a library that a job may load: a worker is one thread
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from pfm.data.pixels import limit_pixels; "
    "limit_pixels(int(sys.argv[2])); from pfm.data.workers import work; work()"
)


@dataclass(frozen=True)
class Outcome:
    """What came of a file.

    Attributes:
        value: what the job made of it; None where it cannot be read.
        reason: why not.
        remarks: what is odd about it all the same.
    """

    value: np.ndarray | None
    reason: str = ""
    remarks: tuple[str, ...] = ()


Job = Callable[[Any], Outcome]  # can be pickled; a file that cannot be read is an outcome, not an exception
Task = Sequence[Any]  # what a job is called with, one after another; of a file that is an outcome already, that


def default_workers() -> int:
    """Workers of this process: the cores that it may run on, shared with the other processes of the host."""
    return max(1, len(available_cores()) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def decode_many(
    sources: Iterable[Any], job: Job, *, workers: int, batch_size: int = BATCH
) -> Iterator[list[tuple[Any, Outcome]]]:
    """Every source with what the job makes of it, in order, in batches; memory is bounded by a few batches a worker.

    Args:
        sources: anything that can be pickled; asked for one after another, a little ahead.
        workers: processes; 0 works in this one.

    Raises:
        DataError: a worker was killed.
    """
    with Workers(workers) as pool:
        for task, outcomes in pool.map(job, batches(sources, batch_size)):
            yield list(zip(task, outcomes, strict=True))


def batches(sources: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The sources in lists of `size`; the last may be shorter."""
    batch: list[Any] = []
    for source in sources:
        batch.append(source)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Workers:
    """Processes that do jobs; they are started when they are needed and end with this object.

    Args:
        count: of processes; 0 works in this one.
        patience_s: how long this process works alone before it starts them.  [default: half a second]
    """

    def __init__(self, count: int, *, patience_s: float | None = None) -> None:
        self.count = count
        self.patience_s = PATIENCE_S if patience_s is None else patience_s
        self._workers: list[_Worker] = []

    def map(self, job: Job, tasks: Iterable[Task]) -> Iterator[tuple[Task, list[Outcome]]]:
        """Each task with its outcomes, in order; abandoned by closing the iterator. One at a time.

        Raises:
            DataError: a worker was killed.
        """
        numbered = iter(tasks)
        started = time.monotonic()
        if not self._workers:
            while self.count == 0 or time.monotonic() - started <= self.patience_s:
                task = next(numbered, None)
                if task is None:
                    return
                yield task, _done(job, task)
            self._workers = [_Worker() for _ in range(self.count)]
        run = _Run(job, numbered, window=2 * IN_FLIGHT * len(self._workers))
        threads = [threading.Thread(target=run.serve, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        try:
            yield from run.results(len(threads))
        except BaseException:
            run.close()
            if run.is_broken:
                self.close()
            raise
        finally:
            run.close()
            for thread in threads:
                thread.join()

    def close(self) -> None:
        """End the processes."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


class _Worker:
    """One process, seen from the one that started it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START, json.dumps(sys.path), str(pixel_limit())]
        environment = {**os.environ, **_ONE_THREAD}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0 if os.name == "posix" else None,  # out of reach of Ctrl-C in a terminal
        )

    def send(self, value: Any) -> None:
        assert self._process.stdin is not None
        _write(self._process.stdin, value)

    def receive(self) -> Any:
        """
        Raises:
            EOFError: it is gone.
        """
        assert self._process.stdout is not None
        return _read(self._process.stdout)

    def how_it_ended(self) -> str:
        """In words; it is gone."""
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its output"
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"

    def close(self) -> None:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


class _Run:
    """The tasks of one `map`: workers take them as they are free, results are handed on in order.

    Args:
        window: tasks that may be taken ahead of the first whose result was not handed on yet.
    """

    def __init__(self, job: Job, tasks: Iterator[Task], window: int) -> None:
        self._job = job
        self._tasks = tasks
        self._window = window
        self._taken = self._handed_on = 0
        self._done: dict[int, tuple[Task, list[Outcome]]] = {}
        self._failure: BaseException | None = None
        self._is_closed = False
        self._serving = 0
        self._changed = threading.Condition()
        self.is_broken = False

    def results(self, serving: int) -> Iterator[tuple[Task, list[Outcome]]]:
        """In order, while `serving` threads serve."""
        with self._changed:
            self._serving += serving
        while True:
            with self._changed:
                while self._handed_on not in self._done and self._failure is None and self._serving:
                    self._changed.wait()
                if self._failure is not None:
                    raise self._failure
                if self._handed_on not in self._done:
                    return
                result = self._done.pop(self._handed_on)
                self._handed_on += 1
                self._changed.notify_all()
            yield result

    def close(self) -> None:
        """No more tasks."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def serve(self, worker: _Worker) -> None:
        """Give a worker tasks until there are none left."""
        pending: deque[tuple[int, Task]] = deque()
        try:
            while True:
                while len(pending) < IN_FLIGHT and (taken := self._take(must_wait=not pending)) is not None:
                    pending.append(taken)
                    worker.send((self._job, taken[1]))
                if not pending:
                    return
                answer = worker.receive()
                number, task = pending.popleft()
                if isinstance(answer, str):
                    raise RuntimeError(f"a decoding process failed:\n{answer}")
                with self._changed:
                    self._done[number] = task, answer
                    self._changed.notify_all()
        except (EOFError, OSError):
            self._fail(DataError(_gone(worker.how_it_ended(), pending)))
        except BaseException as error:
            self._fail(error)
        finally:
            with self._changed:
                self._serving -= 1
                self._changed.notify_all()

    def _take(self, *, must_wait: bool) -> tuple[int, Task] | None:
        """The next task and its number; None where there is none, or none yet."""
        with self._changed:
            while self._taken - self._handed_on >= self._window and not self._is_closed and self._failure is None:
                if not must_wait:
                    return None
                self._changed.wait()
            if self._is_closed or self._failure is not None:
                return None
            task = next(self._tasks, None)
            if task is None:
                self._is_closed = True
                return None
            self._taken += 1
            return self._taken - 1, task

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = self._failure or error
            self.is_broken = True
            self._changed.notify_all()


def _gone(how: str, pending: Sequence[tuple[int, Task]]) -> str:
    sources = [source for _, task in pending for source in task if isinstance(source, Path)]
    where = f" at work on {sources[0]} or one of the {len(sources)} files from it on" if sources else ""
    return (
        f"a decoding process {how}{where}; if it ran out of memory, give fewer --data_workers; with --data_workers 0 "
        "nothing is decoded in other processes"
    )


def _write(stream: Any, value: Any) -> None:
    content = pickle.dumps(value, protocol=5)
    stream.write(len(content).to_bytes(8, "little"))
    stream.write(content)
    stream.flush()


def _read(stream: Any) -> Any:
    """
    Raises:
        EOFError: there is no more.
    """
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    content = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(content) < size:
        raise EOFError
    return pickle.loads(content)


def _done(job: Job, task: Task) -> list[Outcome]:
    return [source if isinstance(source, Outcome) else job(source) for source in task]


def work() -> None:
    """What a worker does: read jobs and their tasks; answer each with its outcomes, or the text of a failure."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tasks, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(tasks, waiting), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        while True:
            try:
                answer: Any = _done(*waiting.get())
            except Exception:
                answer = traceback.format_exc()
            _write(answers, answer)


def _receive(tasks: BinaryIO, waiting: "queue.SimpleQueue[Any]") -> None:
    """Read ahead, so that nobody who writes to us waits for us; and end with whoever writes."""
    code = 0
    try:
        while True:
            waiting.put(_read(tasks))
    except (EOFError, OSError):
        pass
    except Exception:  # a task that cannot be unpickled here
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)  # also in the middle of a file
