"""What a solved head remembers, as a value: rows of samples or sums of classes; taking out and adding make another one.

Letters: N samples, D numbers of a feature vector, P columns of the projection, C classes, E = P + 1.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.errors import CheckpointError, ClassNameError, ConfigError
from pfm.exact.ids import Ids
from pfm.exact.recipe import Ints16, Ints32, Projection, Recipe, canonical_sha256
from pfm.exact.solve import Solution, solve
from pfm.exact.sums import Ints64, num_packed, sums_of, sums_sha256

AT_ONCE = 4096  # rows that are projected at a time
FEW = 20  # samples of a class below which its sums are nearly the samples


def digest_of(recipe: Mapping[str, Any], projection: str, classes: Iterable[tuple[str, int, str]]) -> str:
    """The canonical digest.

    Args:
        projection: its SHA-256.
        classes: name, count and SHA-256 of the sums of each, in any order.
    """
    listed = [list(entry) for entry in sorted(classes)]
    return canonical_sha256({"format": "pfm-exact-1", "recipe": recipe, "projection": projection, "classes": listed})


@dataclass(frozen=True)
class Rows:
    """Samples as integers; personal data.

    Attributes:
        values: (N, D).
        labels: (N,) place in the memory's classes.
        groups: (N,) place in the memory's groups, -1 where a sample has none.
        content_ids, name_ids: (N, 16), see `pfm.exact.ids`; zeros where a source has no name.
    """

    values: Ints16
    labels: Ints32
    groups: Ints32
    content_ids: Ids
    name_ids: Ids

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: npt.NDArray[Any]) -> "Rows":
        """Those at a mask or an index, in memory of their own."""
        return Rows(*(np.ascontiguousarray(getattr(self, entry.name)[chosen]) for entry in dataclasses.fields(self)))

    def joined(self, other: "Rows") -> "Rows":
        """These and others behind them."""
        pairs = ((getattr(self, entry.name), getattr(other, entry.name)) for entry in dataclasses.fields(self))
        return Rows(*(np.concatenate(pair) for pair in pairs))

    def in_order(self) -> "Rows":
        """By class, within it by id: nothing is said of the order in which samples came."""
        keys = [
            f"{label:08d}".encode() + own.tobytes() for label, own in zip(self.labels, self.content_ids, strict=True)
        ]
        return self.take(np.argsort(np.array(keys, dtype="S24"), kind="stable"))


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Everything that the weights are a function of, and what is kept of it.

    Attributes:
        classes: names, in the order of the names.
        counts: samples of each class.
        hashes: SHA-256 of each class's sums.
        rows: the samples, where those are kept.
        sums: each class's packed sums, where those are kept.
        groups: names, where rows are kept.
        key: of the rows' ids.
        stored_shape: of one input as stored, to which a sample's file is brought.
    """

    recipe: Recipe
    projection: Projection
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    hashes: tuple[str, ...]
    rows: Rows | None = None
    sums: Mapping[str, Ints64] | None = None
    groups: tuple[str, ...] = ()
    key: bytes = b""
    stored_shape: tuple[int, ...] = ()
    _solved: list[Solution] = field(default_factory=list[Solution], repr=False, compare=False)

    @property
    def keeps(self) -> str:
        """As `--memory` has it."""
        return "features" if self.rows is not None else "sums" if self.sums is not None else "none"

    @property
    def can_solve(self) -> bool:
        """Whether weights for all classes can be had: from what is kept, or since they were solved already."""
        return self.keeps != "none" or bool(self._solved)

    @property
    def is_personal(self) -> bool:
        """Whether samples, or sums of few of them, could be read off it."""
        return self.keeps != "none"

    @property
    def digest(self) -> str:
        """The canonical digest: equal for equal recipe, projection, classes, counts and sums, and for nothing else."""
        classes = zip(self.classes, self.counts, self.hashes, strict=True)
        return digest_of(self.recipe.to_dict(), self.projection.sha256(), classes)

    @property
    def size_bytes(self) -> int:
        """What is kept beside the projection."""
        if self.rows is not None:
            return sum(getattr(self.rows, entry.name).nbytes for entry in dataclasses.fields(self.rows))
        return sum(own.nbytes for own in (self.sums or {}).values())

    def few(self) -> list[str]:
        """Classes with so few samples that their sums nearly are the samples."""
        return [name for name, count in zip(self.classes, self.counts, strict=True) if count < FEW]

    # --- made -------------------------------------------------------------------------------------

    @classmethod
    def of_rows(
        cls, recipe: Recipe, projection: Projection, classes: Sequence[str], rows: Rows, **rest: Any
    ) -> "Memory":
        """Sum up rows whose labels are places in `classes`; classes without rows are left out."""
        names = sorted(name for number, name in enumerate(classes) if (rows.labels == number).any())
        place = np.array([names.index(name) if name in names else -1 for name in classes], np.int32)
        rows = dataclasses.replace(rows, labels=place[rows.labels]).in_order()
        recipe.check_count(len(rows))
        counts = tuple(np.bincount(rows.labels, minlength=len(names)).tolist())
        blank = cls(
            recipe=recipe, projection=projection, classes=tuple(names), counts=counts, hashes=("",) * len(names),
            rows=rows, **rest,
        )  # fmt: skip
        return blank.summed(map(blank.sums_of_rows, names))

    def summed(self, sums: Iterable[Ints64]) -> "Memory":
        """With the hashes of the classes' sums; solved on the way, since all sums pass by."""
        hashes: list[str] = []

        def noted() -> Iterator[Ints64]:
            for own in sums:
                hashes.append(sums_sha256(own))
                yield own

        solution = solve(noted(), self.counts, width=self.recipe.width, alpha=self.recipe.alpha)
        return dataclasses.replace(self, hashes=tuple(hashes), _solved=[solution])

    def sums_of_rows(self, name: str) -> Ints64:
        """One class's packed sums, from the rows that are here."""
        assert self.rows is not None
        values = self.rows.values[self.rows.labels == self.classes.index(name)]
        parts = (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
        return sums_of((self.projection.project(part, self.recipe) for part in parts), self.recipe.width)

    def class_sums(self, name: str) -> Ints64:
        """One class's packed sums, found to be those that the digest speaks of.

        Raises:
            ConfigError: nothing was kept.
            CheckpointError: what was kept is damaged.
        """
        if self.keeps == "none":
            raise ConfigError(
                "nothing was kept to solve from (--memory none); train again with --memory sums or --memory features"
            )
        own = self.sums_of_rows(name) if self.sums is None else self.sums[name]
        if len(own) != num_packed(self.recipe.width) or sums_sha256(own) != self.hashes[self.classes.index(name)]:
            raise CheckpointError(f"the memory of class {name} is damaged: its sums are not those that were recorded")
        return own

    def solve(self, names: Iterable[str] | None = None) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
        """Weight (P,) and bias of each class, solved for all classes or for some alone.

        Raises:
            ConfigError, CheckpointError: see `class_sums`.
        """
        wanted = self.classes if names is None else tuple(sorted(names))
        if names is None and self._solved:
            found = self._solved[0]
        else:
            counts = [self.counts[self.classes.index(name)] for name in wanted]
            sums = map(self.class_sums, wanted)
            found = solve(sums, counts, width=self.recipe.width, alpha=self.recipe.alpha)
            if names is None:
                self._solved.append(found)
        return {name: (found.weight[place], float(found.bias[place])) for place, name in enumerate(wanted)}

    # --- without, and with more -------------------------------------------------------------------

    def without_classes(self, names: Iterable[str]) -> "Memory":
        """The memory of a fit without some classes."""
        gone = set(names)
        kept = [place for place, name in enumerate(self.classes) if name not in gone]
        rows = self.rows
        if rows is not None:
            rows = rows.take(np.isin(rows.labels, kept))
            renumbered = np.full(len(self.classes), -1, np.int32)
            renumbered[kept] = np.arange(len(kept), dtype=np.int32)
            rows = dataclasses.replace(rows, labels=renumbered[rows.labels])
        smaller = dataclasses.replace(
            self,
            classes=tuple(self.classes[place] for place in kept),
            counts=tuple(self.counts[place] for place in kept),
            hashes=tuple(self.hashes[place] for place in kept),
            rows=rows,
            sums=None if self.sums is None else {name: own for name, own in self.sums.items() if name not in gone},
            _solved=[],
        )
        return smaller._without_idle_groups()

    def without_rows(self, is_gone: npt.NDArray[np.bool_]) -> "Memory":
        """The memory of a fit without some samples (N,); a class that loses all of them goes too."""
        assert self.rows is not None
        left = self.rows.take(~is_gone)
        return self._again(left)._without_idle_groups()

    def _again(self, rows: Rows) -> "Memory":
        """The same, of other rows with the same classes."""
        return Memory.of_rows(
            self.recipe, self.projection, self.classes, rows, groups=self.groups, key=self.key,
            stored_shape=self.stored_shape,
        )  # fmt: skip

    def _without_idle_groups(self) -> "Memory":
        """Names of groups that no sample is of are dropped."""
        if self.rows is None or not self.groups:
            return self
        used = sorted({int(group) for group in np.unique(self.rows.groups)} - {-1})
        renumbered = np.full(len(self.groups) + 1, -1, np.int32)  # the last for -1
        renumbered[used] = np.arange(len(used), dtype=np.int32)
        rows = dataclasses.replace(self.rows, groups=renumbered[self.rows.groups])
        return dataclasses.replace(self, rows=rows, groups=tuple(self.groups[place] for place in used))

    def rows_of_groups(self, names: Iterable[str]) -> npt.NDArray[np.bool_]:
        """(N,), which samples are of some groups.

        Raises:
            ConfigError: rows were not kept, or without groups.
            ClassNameError: there is no such group.
        """
        rows = self._rows_for("a group")
        if not self.groups:
            raise ConfigError("the samples were stored without groups; train again with --group")
        unknown = [name for name in names if name not in self.groups]
        if unknown:
            raise ClassNameError(f"there is no group {unknown[0]!r} among the {len(self.groups)} that are stored")
        return np.isin(rows.groups, [self.groups.index(name) for name in names])

    def rows_where(self, find: Callable[[Rows], npt.NDArray[np.bool_]]) -> npt.NDArray[np.bool_]:
        """(N,), which samples a test picks.

        Raises:
            ConfigError: rows were not kept.
        """
        return find(self._rows_for("a sample"))

    def _rows_for(self, what: str) -> Rows:
        if self.rows is None:
            raise ConfigError(
                f"{what} can be taken out only where features are kept; this file has --memory {self.keeps}, from "
                + ("which classes can" if self.keeps == "sums" else "which nothing can")
            )
        return self.rows

    def with_rows(self, classes: Sequence[str], rows: Rows, groups: Sequence[str]) -> "Memory":
        """The memory of one fit on these samples and others, whose labels and groups are places in the lists given."""
        names = tuple(dict.fromkeys((*self.classes, *classes)))
        all_groups = tuple(dict.fromkeys((*self.groups, *groups)))
        labels = np.array([names.index(name) for name in classes], np.int32)[rows.labels]
        places = np.array([*(all_groups.index(name) for name in groups), -1], np.int32)[rows.groups]
        others = dataclasses.replace(rows, labels=labels, groups=places)
        if self.rows is not None:
            joined = dataclasses.replace(self, classes=names, groups=all_groups)
            return joined._again(self.rows.joined(others))
        more = Memory.of_rows(self.recipe, self.projection, names, others)
        return self._with_sums(
            {name: (more.class_sums(name), count) for name, count in zip(more.classes, more.counts, strict=True)}
        )

    def _with_sums(self, more: Mapping[str, tuple[Ints64, int]]) -> "Memory":
        """Sums added to those of the classes that are there, and classes that are not."""
        known = dict(zip(self.classes, self.counts, strict=True))
        totals = {name: (self.class_sums(name), count) for name, count in known.items()}
        for name, (own, count) in more.items():
            old, before = totals.get(name, (np.zeros_like(own), 0))
            totals[name] = (old + own, before + count)
        return Memory.of_sums(self.recipe, self.projection, totals, stored_shape=self.stored_shape)

    @classmethod
    def of_sums(
        cls,
        recipe: Recipe,
        projection: Projection,
        totals: Mapping[str, tuple[Ints64, int]],
        *,
        stored_shape: tuple[int, ...] = (),
    ) -> "Memory":
        """From each class's packed sums and count."""
        names = sorted(totals)
        recipe.check_count(sum(totals[name][1] for name in names))
        return cls(
            recipe=recipe,
            projection=projection,
            classes=tuple(names),
            counts=tuple(totals[name][1] for name in names),
            hashes=tuple(sums_sha256(totals[name][0]) for name in names),
            sums={name: totals[name][0] for name in names},
            stored_shape=stored_shape,
        )

    def kept_as(self, what: str) -> "Memory":
        """The same, with no more kept than `what` says.

        Raises:
            ConfigError: less is kept than that.
        """
        if what == self.keeps:
            return self
        if what == "none":
            return dataclasses.replace(self, rows=None, sums=None, groups=(), key=b"")
        if what == "sums" and self.rows is not None:
            sums = {name: self.class_sums(name) for name in self.classes}
            return dataclasses.replace(self, rows=None, sums=sums, groups=(), key=b"")
        raise ConfigError(f"--memory {what} cannot be made of --memory {self.keeps}")
