"""Rows of which nothing is kept: decoded by worker processes whenever they are asked for.

Letters: N rows, B rows of a batch, F the first size of a row.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from pfm.data.reading import FilesToRead
from pfm.data.workers import Job, Outcome, Workers, batches

TASK = 8  # files of a task: a batch is several, so that it is ready soon


class DecodedAgain:
    """The files of a split, as rows.

    Args:
        files: what is decoded.
        places: (N,) which of them.
        job: makes a row of one; a row may be shorter than F, what is missing is zero.
        shape: (N, F, …).
    """

    def __init__(
        self,
        files: FilesToRead,
        places: torch.Tensor,
        job: Job,
        shape: Sequence[int],
        dtype: torch.dtype,
        *,
        workers: int,
    ) -> None:
        self.files = files
        self.places = places
        self.job = job
        self.shape = torch.Size(shape)
        self.dtype = dtype
        self._pool = Workers(workers)
        self._is_busy = False

    def rows(self, index: torch.Tensor) -> torch.Tensor:
        """The rows at `index` (B,): (B, F, …).

        Raises:
            DataError: a file that cannot be read.
        """
        return next(self._batches([index], Workers(0) if self._is_busy else self._pool))

    def batches(self, indices: Sequence[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
        """Rows of one index after another; the workers decode ahead, however many helpers that would take.

        Raises:
            DataError: a file that cannot be read.
        """
        del ahead
        pool = Workers(0) if self._is_busy else self._pool
        is_first, self._is_busy = not self._is_busy, True
        try:
            yield from self._batches(indices, pool)
        finally:
            if is_first:
                self._is_busy = False

    def _batches(self, indices: Sequence[torch.Tensor], pool: Workers) -> Iterator[torch.Tensor]:
        places = [self.places[index].tolist() for index in indices]
        sources = (self.files.source(place) for batch in places for place in batch)
        outcomes = (outcome for _, part in pool.map(self.job, batches(sources, TASK)) for outcome in part)
        for batch in places:
            rows = torch.zeros((len(batch), *self.shape[1:]), dtype=self.dtype)
            for row, place, outcome in zip(rows.numpy(), batch, outcomes, strict=False):
                row[: len(self._value(place, outcome))] = outcome.value
            yield rows

    def _value(self, place: int, outcome: Outcome) -> np.ndarray:
        if outcome.value is None:
            raise self.files.cannot("decode", place, outcome.reason)
        return outcome.value
