"""Decoded rows in memory or on disk, once for all processes of a host, and gone with them however they end.

A store is a file without a name: one of the memory (`host`) or one in the folder for temporary files (`disk`). Another
process of the host opens it through the one that made it. Rows are written and read by place; those on disk are not
mapped, so that they count as the system's cache and not as memory of ours.

Letters: N rows, B rows of a batch.
"""

import mmap
import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.errors import StorageError
from pfm.storage import explain

WHERE = ("host", "disk")
CAN_SHARE = Path("/proc/self/fd").is_dir() and hasattr(os, "memfd_create")


class Store:
    """Rows (N, …) by place; what was never written is zero.

    Args:
        descriptor: of the open file, which the store closes.
        where: "host" or "disk".
    """

    def __init__(self, descriptor: int, shape: Sequence[int], dtype: torch.dtype, where: str) -> None:
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self.where = where
        self._file = open(descriptor, "r+b", buffering=0)  # noqa: SIM115  # open for as long as the store is there
        self._row_bytes = self.shape[1:].numel() * dtype.itemsize

    @classmethod
    def make(cls, shape: Sequence[int], dtype: torch.dtype, where: str, what: str) -> "Store":
        """An empty one.

        Args:
            what: needs the room, for the error.

        Raises:
            StorageError: there is not so much room.
        """
        size = max(1, torch.Size(shape).numel() * dtype.itemsize)
        try:
            if where == "host" and hasattr(os, "memfd_create"):
                descriptor = os.memfd_create("pfm-data")
            else:
                with tempfile.TemporaryFile(prefix="pfm-") as file:
                    descriptor = os.dup(file.fileno())
            try:
                os.truncate(descriptor, size)
                if where == "disk" and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(descriptor, 0, size)
            except OSError:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StorageError(
                f"cannot reserve {size / 2**20:,.0f} MiB ({where}) for {what}: {explain(error)}; set TMPDIR to a "
                "folder with room, or give --data_on decode"
            ) from error
        return cls(descriptor, shape, dtype, where)

    @property
    def address(self) -> str:
        """Where other processes of this user on this host can open it, while this one has it."""
        return f"/proc/{os.getpid()}/fd/{self._file.fileno()}"

    @classmethod
    def open(cls, address: str, shape: Sequence[int], dtype: torch.dtype, where: str) -> "Store":
        """What another process made.

        Raises:
            StorageError: it cannot be opened.
        """
        try:
            return cls(os.open(address, os.O_RDWR), shape, dtype, where)
        except OSError as error:
            raise StorageError(
                f"cannot open the data that another process of this host decoded ({explain(error)}); give --data_on "
                "decode, with which every process decodes what it needs"
            ) from error

    def write(self, first: int, rows: np.ndarray) -> None:
        """Write rows from place `first` on."""
        content = memoryview(np.ascontiguousarray(rows)).cast("B")
        offset = first * self._row_bytes
        while content:
            try:
                written = os.pwrite(self._file.fileno(), content, offset)
            except OSError as error:
                raise StorageError(f"cannot keep decoded data ({self.where}): {explain(error)}") from error
            content, offset = content[written:], offset + written

    def tensor(self) -> torch.Tensor:
        """All rows as an ordinary tensor on the memory of the store itself."""
        if self.shape.numel() == 0:
            return torch.empty(self.shape, dtype=self.dtype)
        mapped = mmap.mmap(self._file.fileno(), self.shape.numel() * self.dtype.itemsize)
        return torch.frombuffer(mapped, dtype=self.dtype).view(self.shape)

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at `index` (B,): (B, …)."""
        found = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        if found.numel():
            buffer: Any = found.view(len(index), -1).view(torch.uint8).numpy()
            descriptor, size = self._file.fileno(), self._row_bytes
            for row, place in zip(buffer, index.tolist(), strict=True):
                read = os.preadv(descriptor, [row], place * size)
                assert read == size, "the file has all rows"
        return found

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        """Rows of one index after another, read ahead by as many threads."""
        return read_ahead(self, indices, ahead)


def read_ahead(source: Any, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
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
