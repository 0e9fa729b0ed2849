"""Decoded rows in memory or on disk, once for all processes of a host, and gone with them however they end.

A store is a file without a name, in memory (`host`) or in the folder for temporary files (`disk`), or one of `--cache`.
Another process of the host opens it through the one that made it. Rows are written and read by place and never mapped:
what is read of a file on disk counts as the system's cache, which it drops when memory is short, and not as ours.

Letters: N rows, B rows of a batch.
"""

import os
import tempfile
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from pfm.errors import StorageError, explain


class Store:
    """Rows (N, …) by place; what was never written is zero.

    Args:
        descriptor: of the open file, which the store closes when nobody has it any more.
        shape: (N, …); settable, where fewer rows came to be there, or shorter ones.
        where: "host", "disk" or "cache".
        stride: bytes from one row to the next.  [default: of a row]

    Attributes:
        address: where other processes of this user on this host can open it, while this one has it.
    """

    def __init__(
        self, descriptor: int, shape: Sequence[int], dtype: torch.dtype, where: str, stride: int | None = None
    ) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.where = where
        self.stride = self.shape[1:].numel() * dtype.itemsize if stride is None else stride
        self.address = f"/proc/{os.getpid()}/fd/{descriptor}"
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def make(
        cls, shape: Sequence[int], dtype: torch.dtype, where: str, what: str, *, is_sparse: bool = False
    ) -> "Store":
        """An empty one without a name, in memory or in the folder for temporary files.

        Args:
            what: needs the room, for the error.
            is_sparse: rows may stay empty at their ends, for which no room is taken.

        Raises:
            StorageError: there is not so much room.
        """
        size = torch.Size(shape).numel() * dtype.itemsize
        try:
            if where == "host" and hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("pfm-data")
            else:
                with tempfile.TemporaryFile(prefix="pfm-") as file:
                    descriptor = os.dup(file.fileno())
            _reserve(descriptor, size, is_sparse=is_sparse or where == "host")
        except OSError as error:
            raise StorageError(
                f"cannot reserve {size / 2**20:,.0f} MiB ({where}) for {what}: {explain(error)}; set TMPDIR to a "
                "folder with room, or give --data_on decode"
            ) from error
        return cls(descriptor, shape, dtype, where)

    @classmethod
    def at(cls, path: Path, shape: Sequence[int], dtype: torch.dtype) -> "Store":
        """An empty one with a name.

        Raises:
            StorageError: it cannot be made.
        """
        size = torch.Size(shape).numel() * dtype.itemsize
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _reserve(descriptor, size, is_sparse=True)
        except OSError as error:
            raise StorageError(f"cannot make {path} of {size / 2**20:,.0f} MiB: {explain(error)}") from error
        return cls(descriptor, shape, dtype, "cache")

    @classmethod
    def open(
        cls, address: str, shape: Sequence[int], dtype: torch.dtype, where: str, stride: int | None = None
    ) -> "Store":
        """What another process made, or an earlier one.

        Raises:
            StorageError: it cannot be opened.
        """
        try:
            return cls(os.open(address, os.O_RDONLY | os.O_CLOEXEC), shape, dtype, where, stride)
        except OSError as error:
            raise StorageError(
                f"cannot open decoded data at {address} ({explain(error)}); give --data_on decode, with which every "
                "process decodes what it needs"
            ) from error

    def write(self, place: int, row: np.ndarray) -> None:
        """Write a row, which may be shorter than others in its first size.

        Raises:
            StorageError: there is no room.
        """
        content = memoryview(np.ascontiguousarray(row).data).cast("B")
        offset = place * self.stride
        while content:
            try:
                written = os.pwrite(self._descriptor, content, offset)
            except OSError as error:
                raise StorageError(f"cannot keep decoded data ({self.where}): {explain(error)}") from error
            content, offset = content[written:], offset + written

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at `index` (B,): (B, …)."""
        found = torch.zeros((len(index), *self.shape[1:]), dtype=self.dtype)
        if found.numel():
            buffer: Any = found.view(len(index), -1).view(torch.uint8).numpy()
            descriptor = self._descriptor
            for row, place in zip(buffer, index.tolist(), strict=True):
                os.preadv(descriptor, [row], place * self.stride)  # short where a sparse file ends: the rest is zero
        return found

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        """Rows of one index after another, read ahead by as many threads."""
        return read_ahead(self, indices, ahead)


def _reserve(descriptor: int, size: int, *, is_sparse: bool) -> None:
    try:
        os.truncate(descriptor, size)
        if size and not is_sparse and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)
    except OSError:
        os.close(descriptor)
        raise


class ByIndex(Protocol):
    """What hands out rows by index."""

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, …)."""
        ...


def read_ahead(source: ByIndex, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
    """`source.rows` of one index after another, two of each of `ahead` threads ready ahead; 0 reads when asked."""
    if ahead == 0:
        yield from map(source.rows, indices)
        return
    pending: deque[Future[torch.Tensor]] = deque()
    with ThreadPoolExecutor(ahead, thread_name_prefix="pfm-rows") as threads:
        try:
            for index in indices:
                pending.append(threads.submit(source.rows, index))
                if len(pending) > 2 * ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
