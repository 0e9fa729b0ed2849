"""Exact weights of a bundle, solved from sums that it carries, one file a class.

    sums.<i>.bin         a class's integer sums (see `pfm.exact.sums`), where the export was asked for them
    exact.safetensors    the bank of an erasure that is under way; of older versions, rows solved since

An erasure solves for the classes that are left and writes their rows into the bank, so that none of the files holds
anything that knew the class. Where that cannot be done, the bank keeps rows of a solution that still knew it, and says
so by a digest of what they were solved from.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.errors import BundleError, PfmError, explain
from pfm.exact.memory import digest_of
from pfm.exact.solve import solve
from pfm.exact.sums import num_packed
from pfm.storage import Json, sha256_bytes, write_bytes
from pfm_export.serving.bank import Floats, pack, unpack

SOLVED = "exact.safetensors"
SOLVED_ANEW = "solved without the class from the bundle's own sums"
KNEW_IT = "rows of the solution that knew the class"
SUMS = "sums.*.bin"
READERS = 2  # threads that read and hash a class's sums each, ahead of what is summed up
_DIGEST, _CHECK = "digest", "check"


def sums_file(number: int) -> str:
    """Of a class's sums."""
    return f"sums.{number}.bin"


@dataclass(frozen=True, kw_only=True)
class ClassSums:
    """One class's sums: its number and name, how many samples, and the SHA-256 of its file."""

    id: int
    name: str
    count: int
    sha256: str

    @property
    def file(self) -> str:
        """Its name in the bundle."""
        return sums_file(self.id)


@dataclass(frozen=True, kw_only=True)
class ExactState:
    """What a bundle's rows are a function of.

    Attributes:
        recipe, projection: see `pfm.exact.recipe`; the latter's SHA-256.
        classes: that are there.
        bank_digest: of what the bank's rows were solved from; "" where they are not an exact solution.
        has_sums: the sums are in the bundle.
    """

    recipe: Mapping[str, Any]
    projection: str
    classes: tuple[ClassSums, ...]
    bank_digest: str
    has_sums: bool

    @classmethod
    def of(cls, stated: Mapping[str, Any], ids: Iterable[int]) -> "ExactState":
        """From a manifest, for those of its classes that are there.

        Raises:
            KeyError, TypeError: a value is missing.
        """
        there = set(ids)
        return cls(
            recipe=stated["recipe"],
            projection=stated["projection"],
            classes=tuple(ClassSums(**entry) for entry in stated["classes"] if entry["id"] in there),
            bank_digest=stated["bank_digest"],
            has_sums=stated["has_sums"],
        )

    def to_dict(self) -> Json:
        """As it stands in a manifest."""
        return {
            "recipe": dict(self.recipe),
            "projection": self.projection,
            "classes": [vars(entry) for entry in self.classes],
            "bank_digest": self.bank_digest,
            "has_sums": self.has_sums,
        }

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that it may have in the bundle."""
        return (SOLVED, *(entry.file for entry in self.classes)) if self.has_sums else (SOLVED,)

    @property
    def digest(self) -> str:
        """Of the classes that are there."""
        return digest_of(self.recipe, self.projection, ((c.name, c.count, c.sha256) for c in self.classes))

    def without(self, ids: Iterable[int]) -> "ExactState":
        """Of a fit without some classes."""
        gone = set(ids)
        return replace(self, classes=tuple(entry for entry in self.classes if entry.id not in gone))

    def claim(self, *, is_solved: bool) -> Json:
        """What a ledger says of it.

        Args:
            is_solved: the rows that are left were solved without the classes that went.
        """
        weights = SOLVED_ANEW if is_solved else f"{KNEW_IT}; exact ones need the memory of the checkpoint"
        return {"digest": self.digest, "weights": weights}

    def finished(self, claim: Mapping[str, Any]) -> "ExactState":
        """The state that an erasure leaves, of which a ledger says this."""
        return replace(self, bank_digest=self.digest) if claim.get("weights") == SOLVED_ANEW else self

    def solve_or_say(self, folder: Path) -> tuple[dict[str, Floats] | None, str]:
        """Rows as `solve` has them, or None and why: an erasure does not wait for what cannot be solved."""
        if not self.has_sums:
            return None, "the bundle carries no sums"
        try:
            return self.solve(folder), ""
        except PfmError as error:
            return None, str(error)

    def solve(self, folder: Path, ids: Sequence[int] | None = None) -> dict[str, Floats]:
        """Rows by their names in a bank, solved for all classes that are there, or as if there were only some.

        Raises:
            BundleError: the sums are not in the bundle, or one is missing or was changed.
        """
        if not self.has_sums:
            raise BundleError(
                f"{folder} carries no sums to solve from; export with --with_sums, or forget in the "
                "checkpoint and export again"
            )
        wanted = [entry for entry in sorted(self.classes, key=lambda c: c.name) if ids is None or entry.id in ids]
        width = int(self.recipe["width"])
        sums = self._read_ahead(folder, wanted, int(self.recipe["width"]))
        found = solve(sums, [entry.count for entry in wanted], width=width, alpha=float(self.recipe["alpha"]))
        rows: dict[str, Floats] = {}
        for place, entry in enumerate(wanted):
            rows[f"weight.{entry.id}"] = found.weight[place].astype(np.float32)
            rows[f"bias.{entry.id}"] = np.array(found.bias[place], np.float32)
        return rows

    @staticmethod
    def _read_ahead(folder: Path, wanted: Sequence[ClassSums], width: int) -> Iterator[npt.NDArray[np.int64]]:
        """The sums of classes in their order, each good until the next is asked for; their hashes are checked."""
        with ThreadPoolExecutor(READERS) as pool:
            buffers = [np.empty(num_packed(width), "<i8") for _ in range(min(READERS + 1, len(wanted)))]
            ahead: deque[Future[npt.NDArray[np.int64]]] = deque()
            for place, entry in enumerate(wanted):
                ahead.append(pool.submit(_read, folder / entry.file, entry.sha256, buffers[place % len(buffers)]))
                if len(ahead) == len(buffers):
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def _read(path: Path, sha256: str, into: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A class's sums, in the memory given.

    Raises:
        BundleError: the file cannot be read, or is another than was exported.
    """
    try:
        with path.open("rb", buffering=0) as file:
            is_whole = file.readinto(into.data.cast("B")) == into.nbytes and not file.read(1)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {explain(error)}; export again") from error
    if not is_whole or not _is_known(path, into, sha256):
        raise BundleError(f"{path} was changed since it was exported; export again")
    return into


_known: dict[tuple[str, str], tuple[int, int]] = {}  # file and hash -> time and size at which it had that hash


def _is_known(path: Path, values: npt.NDArray[np.int64], sha256: str) -> bool:
    """Whether a file has a hash; one that was found right before and was not touched since is not read again."""
    found = path.stat()
    mark = found.st_mtime_ns, found.st_size
    if _known.get((str(path), sha256)) == mark:
        return True
    if hashlib.sha256(values.data).hexdigest() != sha256:
        return False
    _known[str(path), sha256] = mark
    return True


def write_solved(folder: Path, state: ExactState) -> None:
    """Solve for the classes that are there and keep the rows beside the bank.

    Raises:
        BundleError: see `ExactState.solve`.
        StorageError: the file cannot be written.
    """
    rows = state.solve(folder)
    digest = np.frombuffer(bytes.fromhex(state.digest), np.uint8)
    tensors: dict[str, npt.NDArray[Any]] = {**rows, _DIGEST: digest, _CHECK: _check(rows, digest)}
    write_bytes(folder / SOLVED, pack(tensors))


def read_solved(folder: Path, state: ExactState) -> dict[str, Floats] | None:
    """Rows that were solved from what is there now; None where there are none, or they are of another state."""
    try:
        tensors = unpack((folder / SOLVED).read_bytes())
        digest, check = tensors.pop(_DIGEST), tensors.pop(_CHECK)
    except (OSError, ValueError, KeyError):
        return None
    if digest.tobytes().hex() != state.digest or check.tobytes() != _check(tensors, digest).tobytes():
        return None
    return tensors


def _check(rows: Mapping[str, Floats], digest: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """SHA-256 of rows and digest, so that a damaged file is noticed."""
    found = hashlib.sha256(digest.tobytes())
    for name in sorted(rows):
        found.update(name.encode() + rows[name].tobytes())
    return np.frombuffer(found.digest(), np.uint8)


def keep_for(folder: Path, bank: bytes, *, like: Path) -> None:
    """Keep the bank that an erasure is going to write, so that a process that finishes it has the same bytes."""
    write_bytes(folder / SOLVED, bank, like=like)


def kept_for(folder: Path, sha256: str) -> bytes | None:
    """The bank that an erasure announced, where it was kept."""
    try:
        content = (folder / SOLVED).read_bytes()
    except OSError:
        return None
    return content if sha256_bytes(content) == sha256 else None


def drop(folder: Path, ids: Iterable[int]) -> None:
    """Delete the sums of classes, and whatever was solved beside the bank.

    Raises:
        BundleError: a file cannot be deleted.
    """
    for name in (*map(sums_file, ids), SOLVED):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise BundleError(f"cannot delete {folder / name}: {explain(error)}; delete it by hand") from error
