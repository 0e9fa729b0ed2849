"""Groups and single samples taken out of a checkpoint whose readout is solved, as a value: nothing of them is left.

A sample goes with all its copies, whichever name or class they were stored under.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pfm.data.reading import FilesToRead
from pfm.errors import ClassNameError, ConfigError
from pfm.exact.ids import content_id, found_in, name_id
from pfm.exact.memory import Memory, Rows
from pfm.forgetting.erase import erase
from pfm.forgetting.subjects import GROUP, SAMPLE
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts import READOUTS
from pfm.model.readouts.ridge import memory_of, with_memory

_NONE_LEFT = "that would leave no sample; delete the file if the whole model is to go"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What is to be taken out.

    Attributes:
        groups: by name.
        samples: files, or names of samples' sources as the data set had them.
    """

    groups: Sequence[str] = ()
    samples: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.groups or self.samples)

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> "Removal":
        """From kind (`GROUP` or `SAMPLE`) and name of each."""
        pairs = list(pairs)
        groups, samples = ([name for what, name in pairs if what == kind] for kind in (GROUP, SAMPLE))
        return cls(groups=groups, samples=samples)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Kind and name of each."""
        return [*((GROUP, name) for name in self.groups), *((SAMPLE, name) for name in self.samples)]


@dataclass(frozen=True, kw_only=True)
class Removed:
    """What was taken out.

    Attributes:
        checkpoint: without it.
        num_samples: how many stored samples went, copies included.
        classes: names of the classes that lost all their samples, and went too.
        digest: of what is left.
    """

    checkpoint: Checkpoint
    num_samples: int
    classes: tuple[str, ...]
    digest: str


def find(checkpoint: Checkpoint, removal: Removal) -> npt.NDArray[np.bool_]:
    """(N,), which stored samples are meant, copies included.

    Raises:
        ConfigError: the readout is not one that can, or does not keep what it takes.
        ClassNameError: no such group or sample.
    """
    if not READOUTS.get(checkpoint.model.readout).erasure_is_exact:
        raise ConfigError(
            f"groups and samples cannot be taken out of --readout {checkpoint.model.readout}, whose weights learned "
            "from all samples together; only an exact readout (--readout ridge) can"
        )
    memory = memory_of(checkpoint)
    is_gone = memory.rows_where(lambda rows: np.zeros(len(rows), bool))
    if removal.groups:
        is_gone |= memory.rows_of_groups(removal.groups)
    for sample in removal.samples:
        is_gone |= memory.rows_where(lambda rows, sample=sample: _rows_of(sample, rows, memory, checkpoint))
    return is_gone


def find_each(checkpoint: Checkpoint, removal: Removal) -> dict[tuple[str, str], npt.NDArray[np.bool_]]:
    """(N,) as of `find`, for each group and sample that the checkpoint has, by kind and name.

    Raises:
        ConfigError: see `find`.
    """
    found: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    for pair in removal.pairs:
        with contextlib.suppress(ClassNameError):
            found[pair] = find(checkpoint, Removal.of([pair]))
    return found


def part_of(checkpoint: Checkpoint, removal: Removal) -> Removal:
    """What of it the checkpoint has.

    Raises:
        ConfigError: see `find`.
        ClassNameError: it has nothing else.
    """
    found = find_each(checkpoint, removal)
    if found and np.logical_or.reduce(list(found.values())).all():
        raise ClassNameError(_NONE_LEFT)
    return Removal.of(found)


def remove(checkpoint: Checkpoint, removal: Removal) -> Removed:
    """Take groups and samples out.

    Raises:
        ConfigError: the readout is not one that can, or does not keep what it takes.
        ClassNameError: no such group or sample, or no class would be left.
    """
    is_gone = find(checkpoint, removal)
    memory = memory_of(checkpoint)
    left = memory.without_rows(is_gone) if not is_gone.all() else None
    if left is None or len(left.classes) < 1:
        raise ClassNameError(_NONE_LEFT)
    emptied = tuple(name for name in memory.classes if name not in left.classes)
    smaller = with_memory(_without(checkpoint, emptied), left)
    return Removed(checkpoint=smaller, num_samples=int(is_gone.sum()), classes=emptied, digest=left.digest)


def _without(checkpoint: Checkpoint, emptied: tuple[str, ...]) -> Checkpoint:
    """The checkpoint without classes that lost all their samples."""
    return erase(checkpoint, emptied) if emptied else dataclasses.replace(checkpoint, progress={})


def _rows_of(sample: str, rows: Rows, memory: Memory, checkpoint: Checkpoint) -> npt.NDArray[np.bool_]:
    """(N,), which stored samples are this one or a copy of it.

    Raises:
        ClassNameError: none is.
        DataError: a file that cannot be read.
    """
    found = found_in(rows.name_ids, name_id(memory.key, sample))
    path = Path(sample)
    if path.is_file():
        found |= found_in(rows.content_ids, content_id(memory.key, stored_content(path, checkpoint, memory)))
    if not found.any():
        how = (
            "no stored sample has its content, or that name"
            if path.is_file()
            else "it is not a file, and no stored name"
        )
        raise ClassNameError(f"{sample} is not in the memory: {how}")
    for own in np.unique(rows.content_ids[found], axis=0):
        found |= found_in(rows.content_ids, own.tobytes())
    return found


def stored_content(path: Path, checkpoint: Checkpoint, memory: Memory) -> bytes:
    """A sample's file as the data set stored it.

    Raises:
        DataError: it cannot be read.
    """
    storage = checkpoint.preprocess.storage
    seconds = checkpoint.run.get("data", {}).get("max_seconds", 30.0)  # what of a longer clip was read
    files = FilesToRead(load=lambda _: path, count=1, where=str(path), name=lambda _: str(path), max_seconds=seconds)
    inputs = storage.read(files).inputs[torch.tensor([0])]
    return storage.brought_to(inputs, memory.stored_shape)[0].contiguous().numpy().tobytes()
