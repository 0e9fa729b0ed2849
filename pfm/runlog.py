"""One JSON line a record, written by the main process only; and a progress bar for people."""

import json
import sys
import time
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from pfm.errors import StorageError, explain
from pfm.storage import cut_half_a_line, write_whole


class RunLog:
    """Appends records to a `.jsonl` file; silent on processes that are not the main one.

    What a killed run left of a line at the end goes when the file is opened: the next record would be a part of it.
    """

    def __init__(self, path: Path | None, *, is_main: bool = True) -> None:
        self.path = path if is_main else None
        self._start = time.monotonic()
        self._file = None
        if self.path is not None:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("a+b", buffering=0)  # what cannot be written is not tried again at the end
                cut_half_a_line(self._file)
            except OSError as error:
                raise StorageError(f"cannot write {self.path}: {explain(error)}; choose another folder") from error

    def write(self, event: str, **numbers: Any) -> None:
        """Write one record with the seconds since the log was opened."""
        if self._file is not None:
            record = {"event": event, "elapsed_s": round(time.monotonic() - self._start, 3), **numbers}
            try:
                write_whole(self._file.fileno(), (json.dumps(record, ensure_ascii=False) + "\n").encode())
            except OSError as error:
                raise StorageError(
                    f"cannot write {self.path}: {explain(error)}; free some space, or choose another folder"
                ) from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def progress(total: int | None, description: str, *, unit: str, is_main: bool = True) -> "tqdm[Any]":
    """A bar on standard error where that is a terminal, nothing elsewhere; without a total, a count."""
    return tqdm(
        total=total,
        desc=description,
        unit=unit,
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=not (is_main and sys.stderr.isatty()),
    )
