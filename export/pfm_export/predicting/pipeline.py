"""Files answered in the order they come in: threads read ahead while the model computes, and little is in memory.

A long sound is windows without end; it is answered by the thread that reads it, a few windows at a time.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from pfm.errors import DataError
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.bank import Floats
from pfm_export.serving.kinds import Batch, InputKind

MOST_BYTES = 2**27  # of graph inputs that wait


class Model(Protocol):
    """What answers: a bundle in service, or a checkpoint."""

    @property
    def input(self) -> InputKind:
        """How files become inputs."""
        ...

    def predict_prepared(self, batches: Iterable[Batch], count: int, chosen: ActiveSet, /) -> Prediction:
        """Answers for `count` items, each the average over its rows in the batches."""
        ...


@dataclass(frozen=True)
class FileAnswer:
    """What a model says of one file.

    Attributes:
        label: the name of the class that wins, or `unknown`.
        classes: the active ones.
        probabilities: (K,), theirs; the rest to 1 is that of `unknown`.
    """

    path: str
    label: str
    classes: tuple[str, ...]
    probabilities: Floats


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read, and why, in a sentence that names it."""

    path: str
    reason: str


@dataclass
class _Pending:
    """Files whose inputs wait for a pass."""

    paths: list[str] = field(default_factory=list[str])
    parts: dict[tuple[int, ...], list[tuple[int, Batch]]] = field(
        default_factory=dict[tuple[int, ...], list[tuple[int, Batch]]]
    )
    rows: int = 0
    size_bytes: int = 0

    def add(self, path: str, batch: Batch) -> None:
        self.parts.setdefault(batch.inputs.shape[1:], []).append((len(self.paths), batch))
        self.paths.append(path)
        self.rows += len(batch.inputs)
        self.size_bytes += batch.inputs.nbytes

    def batches(self) -> list[Batch]:
        """The inputs of one shape together."""
        return [
            Batch(
                np.concatenate([batch.inputs for _, batch in parts]),
                np.concatenate([np.full(len(batch.inputs), owner) for owner, batch in parts]),
                np.concatenate([batch.weights for _, batch in parts]),
            )
            for parts in self.parts.values()
        ]


class _Windows:
    """The windows of a long sound, read again whenever they are gone through.

    Args:
        stop: set when nobody wants the answer any more.
    """

    def __init__(self, kind: InputKind, path: str, stop: threading.Event) -> None:
        self._kind, self._path, self._stop = kind, path, stop

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._kind.batches([self._path]):
            if self._stop.is_set():
                raise DataError(f"stopped within {self._path}")
            yield batch


_Read = Batch | Prediction | Unreadable


def predict_files(
    model: Model, paths: Iterable[str], chosen: ActiveSet, *, batch_size: int, num_workers: int
) -> Generator[FileAnswer | Unreadable]:
    """An answer for each file, in order; close the iterator to stop early.

    Args:
        batch_size: rows of a pass, at the least, where there are as many.
        num_workers: threads that read ahead.

    Raises:
        PfmError: the model cannot answer any more.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="pfm-read")
    waiting: deque[tuple[str, Future[_Read]]] = deque()
    names, pending, ahead = iter(paths), _Pending(), batch_size + 2 * num_workers
    try:
        while True:
            while len(waiting) < ahead and (path := next(names, None)) is not None:
                waiting.append((path, pool.submit(_read, model, path, chosen, stop)))
            if not waiting:
                break
            path, future = waiting.popleft()
            read = future.result()
            if isinstance(read, Batch):
                pending.add(path, read)
                fits = MOST_BYTES // max(read.inputs.nbytes, 1)
                ahead = max(num_workers, min(batch_size + 2 * num_workers, fits))
            if pending.rows >= batch_size or pending.size_bytes >= MOST_BYTES or not isinstance(read, Batch):
                yield from _answers(model, pending, chosen)
                pending = _Pending()
            if isinstance(read, Prediction):
                yield FileAnswer(path, read.labels[0], read.classes, read.probabilities[0])
            elif isinstance(read, Unreadable):
                yield read
        yield from _answers(model, pending, chosen)
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _answers(model: Model, pending: _Pending, chosen: ActiveSet) -> Iterator[FileAnswer]:
    if not pending.paths:
        return
    found = model.predict_prepared(pending.batches(), len(pending.paths), chosen)
    for path, label, row in zip(pending.paths, found.labels, found.probabilities, strict=True):
        yield FileAnswer(path, label, found.classes, row)


def _read(model: Model, path: str, chosen: ActiveSet, stop: threading.Event) -> _Read:
    """A file's inputs where they are one batch, else its answer."""
    try:
        with contextlib.closing(_generator(model.input, path)) as batches:
            first = next(batches)
            if next(batches, None) is None:
                return first
        return model.predict_prepared(_Windows(model.input, path, stop), 1, chosen)
    except DataError as error:
        return Unreadable(path, str(error))


def _generator(kind: InputKind, path: str) -> Generator[Batch]:
    return (batch for batch in kind.batches([path]))
