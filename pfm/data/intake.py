"""Taking files in: decoded by all cores, once for all processes of a host, and kept where there is room.

What a model sees does not depend on any of this: the same bytes whatever is kept where, and by how many processes.

Letters: N files, N' files that could be read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from pfm.data.again import DecodedAgain
from pfm.data.cache import ROWS, Cache, CacheEntry, write_about
from pfm.data.contents import FromFiles
from pfm.data.place import choose_place
from pfm.data.reading import SKIPPED, FilesToRead, Intake, Remarks, Stacked
from pfm.data.rows import Rows
from pfm.data.store import Store
from pfm.data.workers import BATCH, Job, Workers, batches
from pfm.errors import DataError
from pfm.runlog import progress


@dataclass(frozen=True, kw_only=True)
class Rowed:
    """What the rows of a data set look like.

    Attributes:
        job: makes one of a file; a row may be shorter than others in its first size, what is missing is zero.
        shape: of the largest that there can be.
        dtype: of an element.
        size_bytes: of all rows of each split, about.
        is_ragged: whether rows differ in their first size.
    """

    job: Job
    shape: tuple[int, ...]
    dtype: torch.dtype
    size_bytes: Mapping[str, int]
    is_ragged: bool


@dataclass(frozen=True, kw_only=True)
class Words:
    """How to speak of a kind of files.

    Attributes:
        noun: several of them.
        unit: of a progress bar.
        verb: what is done to one, in an error.
        doing: the same, in the title of a progress bar.
    """

    noun: str
    unit: str
    verb: str
    doing: str


@dataclass(frozen=True, kw_only=True)
class Looked:
    """A first look at the files of a split.

    Attributes:
        kept: places of those that seem to be readable.
        facts: (N', k) int64, what the look found of each.
        remarks: of those that are not.
    """

    kept: list[int]
    facts: np.ndarray
    remarks: Remarks


Plan = Callable[[Mapping[str, Looked]], Rowed]


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """What the leader tells the other processes of a split that is there.

    Attributes:
        kept: (N',) int64.
        rows: (N', …), the shape of all rows.
        address: where the store can be opened; None where nothing is kept.
    """

    kept: torch.Tensor
    notes: tuple[str, ...]
    shape: tuple[int, ...]
    stride: int
    where: str
    address: str | None


def take_in(files: Mapping[str, FilesToRead], look: Job, plan: Plan, words: Words) -> dict[str, Stacked]:
    """Read the files of each split that is asked for; those of others are read if and when somebody asks for them.

    Args:
        look: finds out about a file what the plan needs, without decoding it.
        plan: says what rows look like, of what was found in each split.

    Raises:
        DataError: a file that cannot be read, unless those are skipped, or none that can.
        StorageError: there is no room.
    """
    intake = next(iter(files.values())).intake
    stores: dict[str, Store] = {}

    def lead() -> tuple[Rowed, dict[str, _Taken], str]:
        with Workers(intake.workers * intake.host.size) as pool:  # the other processes wait
            leader = _Leader(files, intake, words, pool)
            found = leader.take_in(look, plan)
            stores.update(leader.stores)
        return found

    rowed, taken, said = intake.host.lead(lead)
    if said:
        intake.say(said)
    found: dict[str, Stacked] = {}
    for split, part in taken.items():
        source: Store | DecodedAgain
        if part.address is None:
            source = DecodedAgain(files[split], part.kept, rowed.job, part.shape, rowed.dtype, workers=intake.workers)
        else:
            source = stores.get(split) or Store.open(part.address, part.shape, rowed.dtype, part.where, part.stride)
        found[split] = Stacked(Rows(FromFiles(source, files[split], part.kept)), part.kept, part.notes)
    return found


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What was read of a split.

    Attributes:
        kept: places of the files that could be read.
        longest: largest first size of a row; 0 where no row was seen.
    """

    kept: Sequence[int]
    notes: tuple[str, ...]
    longest: int


@dataclass
class _Leader:
    """The process of a host that decodes for all of them.

    Attributes:
        stores: what was filled, by split.
    """

    files: Mapping[str, FilesToRead]
    intake: Intake
    words: Words
    pool: Workers
    stores: dict[str, Store] = field(default_factory=dict)

    @property
    def wanted(self) -> list[str]:
        skips = any(part.skip_bad for part in self.files.values())
        return self.intake.wanted(self.files, skips=skips)

    def take_in(self, look: Job, plan: Plan) -> tuple[Rowed, dict[str, _Taken], str]:
        """What rows look like, what is there of each split, and a sentence on where."""
        looked = {split: self._look(part, look) for split, part in self.files.items()}
        rowed = plan(looked)
        wanted = self.wanted
        place = choose_place(sum(rowed.size_bytes[s] for s in wanted), self.intake.feed, self.intake.device)
        parts = {split: self._take(split, looked[split], rowed, place.where) for split in self.files}
        longest = max((part.longest for part in parts.values()), default=0) if rowed.is_ragged else rowed.shape[0]
        count = sum(len(parts[split].kept) for split in wanted)
        said = f"data: {count:,} {self.words.noun}, {place.describe()}" if wanted else ""
        taken: dict[str, _Taken] = {}
        for split, part in parts.items():
            store = self.stores.get(split)
            first = longest if split in wanted else rowed.shape[0]
            shape = torch.Size((len(part.kept), first, *rowed.shape[1:]))
            if store is not None:
                store.shape = shape
            taken[split] = _Taken(
                kept=torch.tensor(part.kept),
                notes=part.notes,
                shape=tuple(shape),
                stride=0 if store is None else store.stride,
                where="decode" if store is None else store.where,
                address=None if store is None else store.address,
            )
        return rowed, taken, said

    def _look(self, files: FilesToRead, look: Job) -> Looked:
        kept: list[int] = []
        facts: list[np.ndarray] = []
        remarks = Remarks()
        for place, value in self._readable(files, range(files.count), look, remarks, "looking at"):
            kept.append(place)
            facts.append(value)
        if not kept:
            raise _nothing(files, remarks)
        return Looked(kept=kept, facts=np.stack(facts), remarks=remarks)

    def _take(self, split: str, looked: Looked, rowed: Rowed, where: str) -> _Part:
        """Read a split, to wherever its rows are kept."""
        files, cache = self.files[split], self.intake.feed.cache
        if split not in self.wanted:
            return _Part(kept=looked.kept, notes=looked.remarks.notes(files.where), longest=0)
        shape = (len(looked.kept), *rowed.shape)
        if cache is not None:
            part, self.stores[split] = self._from_cache(files, looked, rowed, shape, Cache(Path(cache)))
            return part
        if where == "decode" and not (rowed.is_ragged or files.skip_bad):
            return _Part(kept=looked.kept, notes=looked.remarks.notes(files.where), longest=0)
        if where != "decode":
            what = f"the {self.words.noun} of {files.where}"
            self.stores[split] = Store.make(shape, rowed.dtype, where, what, is_sparse=rowed.is_ragged)
        return self._decode(files, looked, rowed, self.stores.get(split))

    def _decode(self, files: FilesToRead, looked: Looked, rowed: Rowed, store: Store | None) -> _Part:
        """Decode the files of a split one after another; without a store, only to know what can be read."""
        kept: list[int] = []
        longest = 0
        for place, row in self._readable(files, looked.kept, rowed.job, looked.remarks, self.words.doing):
            if len(row) > rowed.shape[0]:
                raise files.cannot(self.words.verb, place, "it is longer than its header says")
            if store is not None:
                store.write(len(kept), row)
            kept.append(place)
            longest = max(longest, len(row))
        if not kept:
            raise _nothing(files, looked.remarks)
        return _Part(kept=kept, notes=looked.remarks.notes(files.where), longest=longest)

    def _from_cache(
        self, files: FilesToRead, looked: Looked, rowed: Rowed, shape: tuple[int, ...], cache: Cache
    ) -> tuple[_Part, Store]:
        """What an earlier command decoded, or decode it for later ones."""
        key = cache.key((files.source(place) for place in range(files.count)), rowed.job)
        if (entry := cache.find(key)) is None:
            with cache.making(key) as folder:
                if cache.find(key) is None:
                    part = self._decode(files, looked, rowed, Store.at(folder / ROWS, shape, rowed.dtype))
                    write_about(_entry(folder, files, part, rowed))
            entry = cache.find(key)
        assert entry is not None, "it was just made"
        part = _Part(kept=entry.kept, notes=entry.notes, longest=entry.longest)
        row = torch.Size(entry.shape)
        stride = row.numel() * rowed.dtype.itemsize
        return part, Store.open(str(entry.rows), (len(entry.kept), *row), rowed.dtype, "cache", stride)

    def _readable(
        self, files: FilesToRead, places: Sequence[int], job: Job, remarks: Remarks, title: str
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Place and value of every file that can be read, in order."""
        sources = (files.source(place) for place in places)
        queue = iter(places)
        is_main = files.intake.is_shown
        with progress(len(places), f"{title} {files.where}", unit=self.words.unit, is_main=is_main) as bar:
            for _, outcomes in self.pool.map(job, batches(sources, BATCH)):
                for outcome in outcomes:
                    place = next(queue)
                    for remark in outcome.remarks:
                        remarks.add(remark, files.name(place))
                    if outcome.value is not None:
                        yield place, outcome.value
                    elif files.skip_bad:
                        remarks.add(SKIPPED, f"{files.name(place)}: {outcome.reason}")
                    else:
                        raise files.cannot(self.words.verb, place, outcome.reason)
                bar.update(len(outcomes))


def _nothing(files: FilesToRead, remarks: Remarks) -> DataError:
    return DataError(f"no file can be read ({'; '.join(remarks.notes(files.where)) or f'{files.where} has none'})")


def _entry(folder: Path, files: FilesToRead, part: _Part, rowed: Rowed) -> CacheEntry:
    return CacheEntry(
        folder=folder,
        where=files.where,
        kept=tuple(part.kept),
        num_files=files.count,
        shape=rowed.shape,
        dtype=str(rowed.dtype).removeprefix("torch."),
        longest=part.longest,
        notes=part.notes,
        classes=None if files.classes is None else tuple(files.classes[place] for place in part.kept),
    )
