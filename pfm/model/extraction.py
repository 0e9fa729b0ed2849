"""Samples to stored rows of integers: features computed once, in float32, in batches of one shape whatever the options.

Rows of a small and of a large batch differ in their last bit, and so may rows computed on one thread and on several. So
every batch has `BATCH` rows, the last one filled up, and is computed on one thread; several threads compute several
batches.

Letters: N samples, n samples of this process, F numbers of a feature vector.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from pfm.data.config import FeedConfig
from pfm.data.feed import Feed
from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.exact.ids import ID_BYTES, as_array, content_id, name_id
from pfm.exact.memory import Rows
from pfm.exact.recipe import Ints16
from pfm.model.classifier import PromptedClassifier
from pfm.model.readouts.ridge import RIDGE
from pfm.model.views import StoredInputs
from pfm.runlog import progress

BATCH = 32
AHEAD = 4  # batches that are read for each thread before they are computed


@dataclass(frozen=True, kw_only=True)
class Extracted:
    """This process's samples as rows.

    Attributes:
        rows: labels are those of the split, groups are places in `groups`.
        index: (n,) their places in the split.
        groups: names of the split's groups.
        key: of the rows' ids.
        clipped: share of feature integers that were cut off at the bound.
    """

    rows: Rows
    index: torch.Tensor
    groups: tuple[str, ...]
    key: bytes
    clipped: float


def extract(
    model: PromptedClassifier,
    split: Split,
    preprocess: Preprocess,
    processes: Processes,
    *,
    key: bytes,
    feed: FeedConfig | None = None,
    labels: torch.Tensor | None = None,
) -> Extracted:
    """The rows of this process's share of a split; every process has its own.

    Args:
        key: of the samples' ids.
        labels: (N,) in place of the split's.
    """
    stored = StoredInputs(Feed(split, processes.device, feed or FeedConfig()), preprocess)
    batches = torch.arange(len(split)).split(BATCH)[processes.rank :: processes.world_size]
    index = torch.cat([*batches, torch.empty(0, dtype=torch.int64)])
    model.eval()
    size = RIDGE.recipe_size(model)
    values = np.empty((len(index), size), np.int16)
    ids: list[bytes] = []
    start = 0
    with progress(len(index), "features", unit="sample", is_main=processes.is_main) as bar:
        for part, contents in _computed(model, stored, batches, processes.device):
            values[start : start + len(part)] = part
            ids += [content_id(key, content) for content in contents]
            start += len(part)
            bar.update(len(part))
    names = [b"\0" * ID_BYTES if split.names is None else name_id(key, split.names[i]) for i in index.tolist()]
    groups = tuple(sorted(set(split.groups or ())))
    place = {name: number for number, name in enumerate(groups)}
    own_groups = [-1 if split.groups is None else place[split.groups[i]] for i in index.tolist()]
    rows = Rows(
        values,
        (split.labels if labels is None else labels)[index].numpy().astype(np.int32),
        np.array(own_groups, np.int32),
        as_array(ids),
        as_array(names),
    )
    clipped = float((np.abs(values) >= RIDGE.bound(model)).mean()) if len(values) else 0.0
    return Extracted(rows=rows, index=index, groups=groups, key=key, clipped=clipped)


def _computed(
    model: PromptedClassifier, stored: StoredInputs, batches: Sequence[torch.Tensor], device: torch.device
) -> Iterator[tuple[Ints16, list[bytes]]]:
    """Integers (b, F) of each batch, and the bytes of its samples as stored."""

    @torch.inference_mode()
    def compute(given: tuple[torch.Tensor, int]) -> tuple[Ints16, list[bytes]]:
        inputs, count = given
        if device.type == "cpu":
            torch.set_num_threads(1)
        integers = RIDGE.features(model, stored.preprocess(inputs))[:count]
        contents = [row.tobytes() for row in inputs[:count].cpu().contiguous().numpy()]
        return integers.to(torch.int16).cpu().numpy(), contents

    threads = torch.get_num_threads()
    at_once = AHEAD * threads
    full = [torch.cat([index, index[-1:].expand(BATCH - len(index))]) for index in batches]
    counts = [len(index) for index in batches]
    try:
        with ThreadPoolExecutor(max(1, min(threads, os.cpu_count() or 1))) as pool:
            for start in range(0, len(full), at_once):  # so that no more than these are in memory
                part = slice(start, start + at_once)
                given = zip(stored.feed.batches(full[part]), counts[part], strict=True)
                yield from (pool.map if device.type == "cpu" else map)(compute, given)
    finally:
        torch.set_num_threads(threads)


def gathered_rows(extracted: Extracted, count: int, processes: Processes) -> Rows:
    """The rows of all processes, in the order of the split; every process has to call it."""
    if processes.world_size == 1:
        return extracted.rows
    own, found = extracted.rows, []
    for values in (own.values, own.labels, own.groups, own.content_ids, own.name_ids):
        found.append(_summed_up(values, extracted.index, count, processes))
    return Rows(*found)


def _summed_up(values: np.ndarray, index: torch.Tensor, count: int, processes: Processes) -> np.ndarray:
    """(count, …) of which each process has some rows: zeros for the others', and the sum over the processes."""
    whole = np.empty((count, *values.shape[1:]), values.dtype)
    for start in range(0, count, CHUNK):
        stop = min(start + CHUNK, count)
        part = torch.zeros((stop - start, *values.shape[1:]), dtype=torch.int32)
        is_own = (index >= start) & (index < stop)
        part[index[is_own] - start] = torch.from_numpy(values[is_own.numpy()].astype(np.int32))
        whole[start:stop] = processes.reduce(part.to(processes.device)).cpu().numpy()
    return whole


CHUNK = 16_384  # rows that are exchanged at a time


def reducing(processes: Processes) -> Callable[[np.ndarray], np.ndarray]:
    """Sums arrays of whole numbers below 2^53 over the processes, exactly; every process has to call it."""

    def total(values: np.ndarray) -> np.ndarray:
        if processes.world_size == 1:
            return values
        wide = torch.from_numpy(values.astype(np.float64)).to(processes.device)
        return processes.reduce(wide).cpu().numpy().astype(np.int64)

    return total
