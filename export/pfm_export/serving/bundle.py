"""What an export is on disk: a graph that belongs to no class, and a small bank that holds them.

    model.onnx         the graph; prompts (and classifier rows) are its inputs (see `pfm_export.serving.signature`)
    bank.safetensors   everything of the classes (see `pfm_export.serving.bank`)
    manifest.json      classes, preprocessing, profiles, versions, SHA-256 of the files
    ledger.jsonl       what was erased, each line carrying the hash of the line before
    sums.<i>.bin, exact.safetensors    of an exact readout, see `pfm_export.serving.solving`

Erasing a class rewrites the bank. The ledger line is written first, then the bank, then the
manifest. Whoever opens a bundle between two of these steps sees the class as erased, and the next
erasure finishes what was left.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfm.classes import ClassKeys, check_removal, class_keys
from pfm.errors import BundleError, ClassNameError
from pfm.forgetting import ledger
from pfm.forgetting.artifacts import Request
from pfm.forgetting.centring import CENTRED, CENTRED_PROMPTS, SUM_LEFT
from pfm.forgetting.ledger import LEDGER, LOCK, PROMPTS_CENTRED, Record
from pfm.forgetting.search import Row
from pfm.locks import locked
from pfm.model.starts import follows
from pfm.options import expanded
from pfm.storage import sha256_bytes, write_bytes
from pfm_export.serving import fields, solving
from pfm_export.serving.bank import BANK, Bank, BankShape, Floats, Rows
from pfm_export.serving.kinds import InputKind
from pfm_export.serving.manifest import Manifest, no_bundle_at, read_file, read_manifest, write_manifest
from pfm_export.serving.pending import find_pending
from pfm_export.serving.signature import MODEL
from pfm_export.serving.standing import Stamp, read_standing
from pfm_export.serving.traces import held_again, other_bank, search_files

if TYPE_CHECKING:
    from pfm.forgetting.artifacts.walk import Seen

DEFAULT_PROFILE = "default"
MOST_SOLVED = 64  # sets of classes whose solutions are kept
SLACK = 1 << 20  # bytes by which a bank that an interrupted erasure wrote may differ from what the manifest states
COPIES = "other copies of this bundle and the checkpoint it was exported from are out of reach"
REMAINS = (
    "the graph's shared weights were trained with samples of the erased classes too; erasing does not change them",
    COPIES,
)

# figures in the manifest that were measured with every class there
MEASURED = ("parity", "accuracy")
NOT_ANY_MORE = "was measured with classes that have been erased since, and went with them; `pfm export check` measures"


class Bundle:
    """A bundle that was read and found whole.

    Attributes:
        folder: where it is.
        stated: what its manifest says.
        shape: of what its bank has for each class.
        classes: those that can be served; a class whose erasure was interrupted is not among them.
        exact: what the rows are a function of, for a readout that forgets exactly; None for others.
    """

    def __init__(self, folder: Path, stated: Manifest, records: list[Record], bank: bytes) -> None:
        self.folder = folder
        self.stated = stated
        self._records = records
        self.shape = BankShape(stated.hidden_size, stated.prompt_tokens, has_rows=stated.signatures.takes_rows)
        self._bank = Bank.parse(bank, self.shape, folder / BANK)
        self.classes = stated.classes
        self._pending = find_pending(folder, stated, records, self._bank.sha256)
        gone = {number for number, _ in self.pending}
        self.classes = self.classes.without(p for p, i in enumerate(self.classes.ids) if i in gone)
        missing = self._bank.missing(self.classes.ids)
        if missing is not None:
            raise BundleError(f"{folder / BANK} has no fitting {missing}; export again")
        stray = self._bank.stray(stated.classes.ids)
        if stray is not None:
            raise BundleError(f"{folder / BANK} holds {stray[:80]}, of no class that the manifest states; export again")
        known = stated.document.get("exact")
        self.exact = None if known is None else solving.ExactState.of(known, self.classes.ids)
        self._solved = None if self.exact is None else solving.read_solved(folder, self.exact)
        self._by_set: dict[tuple[int, ...], Bundle] = {}
        self.positions_of: dict[object, tuple[int, ...]] = {}  # of sets that were asked for; see `ActiveSet.positions`

    @classmethod
    def open(cls, folder: Path | str) -> "Bundle":
        """Read a bundle, also while others write it; `model_bytes` checks the graph when it is loaded.

        Raises:
            BundleError: a file is missing, changed or of another version.
        """
        return cls.open_stamped(folder)[1]

    @classmethod
    def open_stamped(cls, folder: Path | str) -> "tuple[Stamp, Bundle]":
        """The same, and what tells whether its files are others by now."""
        folder = expanded(Path(folder)).absolute()  # the process may go to another folder
        if not folder.is_dir():
            raise no_bundle_at(folder)
        return read_standing(folder, cls._read)

    @classmethod
    def _read(cls, folder: Path) -> "Bundle":
        stated = read_manifest(folder)
        bank = read_file(folder / BANK, stated.files[BANK].size_bytes + SLACK)
        return cls(folder, stated, ledger.read(folder / LEDGER), bank)

    @property
    def manifest(self) -> dict[str, Any]:
        """The whole manifest, as read."""
        return self.stated.document

    @cached_property
    def input(self) -> InputKind:
        """What the graphs take for what is classified.

        Raises:
            ConfigError: a kind that nothing installed here has registered.
        """
        return self.stated.input_kind()

    @property
    def follows(self) -> str:
        """What can be drawn again of an erased class, as a sentence."""
        return self.manifest.get("start", {}).get("follows") or follows("")

    @property
    def pending(self) -> tuple[tuple[int, str], ...]:
        """Number and name of the classes whose erasure was begun and not finished."""
        return () if self._pending is None else fields.pairs(self._pending["classes"])

    @property
    def held_again(self) -> str:
        """What the ledger has against the bank: a class that was erased, or other bytes than were left; "" for nothing.

        So it is where files of before were put back, under whatever names; `PromptSession` does not serve them.

        Raises:
            StorageError: the ledger has a line that pfm did not write.
        """
        problem = held_again(self.folder, self.classes, self._records)
        return problem or ("" if self.pending else other_bank(self.folder, self._records, self._bank.sha256))

    @property
    def prompts_centred(self) -> bool | None:
        """Whether the prompts sum to zero, as an erasure may leave them; None where there are none."""
        return self._bank.prompts_centred

    @property
    def bank_sha256(self) -> str:
        """SHA-256 of the bank's bytes."""
        return self._bank.sha256

    def tensors_of(self, number: int) -> dict[str, Floats]:
        """What the bank has of one class."""
        return self._bank.tensors_of(number)

    def search_rows(self, ids: Iterable[int]) -> list[Row]:
        """Rows of classes, to look for elsewhere."""
        return self._bank.search_rows(ids)

    @property
    def graph_hashes(self) -> dict[str, str]:
        """SHA-256 of each graph; they tell one bundle from another, whatever was erased."""
        return {name: file.sha256 for name, file in self.stated.files.items() if name.endswith(".onnx")}

    def suspended(self, profile: str | None = None) -> set[int]:
        """Positions of the classes that a profile leaves out; None is the profile "default", which may be absent.

        Raises:
            ClassNameError: no such profile.
        """
        name, profiles = DEFAULT_PROFILE if profile is None else profile, self.stated.profiles
        if name not in profiles and profile not in (None, DEFAULT_PROFILE):
            known = ", ".join(sorted(profiles)) or "none"
            raise ClassNameError(f"there is no profile {profile!r}; the bundle's profiles: {known}")
        left_out = profiles.get(name, ())
        return {position for position, number in enumerate(self.classes.ids) if number in left_out}

    def model_bytes(self, name: str = MODEL) -> bytes:
        """A graph, its hash checked on the very bytes that are returned.

        Args:
            name: the file; a bundle exported with --split has trunk.onnx and head.onnx.
        """
        stated = self.stated.files.get(name)
        if stated is None:
            raise BundleError(f"{self.folder} has no {name}; its graphs are {', '.join(self.graph_hashes)}")
        content = read_file(self.folder / name, stated.size_bytes)
        if sha256_bytes(content) != stated.sha256:
            raise BundleError(f"{self.folder / name} was changed since it was exported; export it again")
        return content

    def rows(self, positions: Sequence[int]) -> Rows:
        """The rows of the classes at `positions`, in that order; of an exact readout those solved last."""
        ids = [self.classes.ids[p] for p in positions]
        return self._bank.rows(ids) if self._solved is None else self._bank.rows_from(self._solved, ids)

    @property
    def is_exact(self) -> bool | None:
        """Whether the rows are those of a fit on the classes that are there alone; None where nobody claims it."""
        state = self.exact
        return None if state is None else self._solved is not None or state.bank_digest == state.digest

    def has_rows_of(self, other: "Bundle") -> bool:
        """Whether every class has the same place and rows in both; False too where that is not known."""
        if self is other:
            return True
        is_alike = self.bank_sha256 == other.bank_sha256 and self.classes.ids == other.classes.ids
        return is_alike and self.exact is None and other.exact is None

    def hiding(self, names: Iterable[str]) -> "Bundle":
        """The bundle without classes that are about to be erased from its files; nothing is written."""
        positions = [self.classes.names.index(name) for name in names if name in self.classes.names]
        other = copy.copy(self)
        other.classes = self.classes.without(positions)
        other._by_set = {}
        other.positions_of = {}
        if self.exact is not None:
            other.exact = self.exact.without(self.classes.ids[p] for p in positions)
            other._solved = None
        return other

    def is_exact_for(self, positions: Sequence[int], is_solved: bool) -> bool | None:
        """Whether answers with some classes, by rows of `solved_for` or not, are exact; None where nobody claims it."""
        is_whole = bool(self.is_exact) and len(positions) == len(self.classes)
        return None if self.exact is None else is_solved or is_whole

    def solved_for(self, positions: Sequence[int]) -> "Bundle":
        """The bundle with rows solved as if there were no classes but some; a BundleError where it has no sums."""
        if self.exact is None:
            raise BundleError(f"{self.folder} is not of an exact readout; it has no weights for a set alone")
        key = tuple(sorted(positions))
        if len(key) == len(self.classes) and self.is_exact:
            return self
        if key not in self._by_set:
            other = copy.copy(self)
            other._solved = self.exact.solve(self.folder, [self.classes.ids[p] for p in key])
            if len(self._by_set) >= MOST_SOLVED:
                self._by_set.clear()
            self._by_set[key] = other
        return self._by_set[key]

    def solve(self) -> "Bundle":
        """Solve the rows of the classes that are there from the bundle's own sums, which it has to have, onto disk."""
        with locked(self.folder / LOCK):
            bundle = Bundle.open(self.folder).finish_pending()
            if bundle.exact is None:
                raise BundleError(f"{self.folder} is not of an exact readout; its weights are not solved")
            if not bundle.is_exact:
                solving.write_solved(self.folder, bundle.exact)
            return Bundle.open(self.folder)

    def erase(
        self, keys: ClassKeys, *, reason: str = "", requested_by: str = "", centre_prompts: bool = False
    ) -> "Bundle":
        """Remove classes from the bundle's own files, for good; returns the bundle as it is afterwards.

        What else is in its folder and may hold them stays, and the record names it; see `pfm_export.serving.beside`.

        Args:
            centre_prompts: move the prompts that are left to mean zero, so that their sum says nothing of what went;
                some answers change (see `pfm.forgetting.centring`).

        Raises:
            ClassNameError: an unknown class, or no class would be left.
            StorageError: a file could not be written; run it again to finish.
        """
        return self.erase_and_look(keys, Request(reason, requested_by, centre_prompts))[0]

    def erase_and_look(self, keys: ClassKeys, request: Request) -> "tuple[Bundle, list[Seen]]":
        """The same, and what is beside it in its folder and may hold the classes."""
        from pfm_export.serving.beside import beside, looked

        names = [self.classes.names[p] for p in self.classes.positions(keys)]
        with locked(self.folder / LOCK):
            others = beside(self.folder)
            # as it is on disk now: another process may have erased a class since, or died while it did
            return Bundle.open(self.folder).erase_held(names, request, looked(self.folder, others)), others

    def erase_held(self, names: Sequence[str], request: Request, looked: Mapping[str, Any]) -> "Bundle":
        """The same for who holds the folder's lock.

        Args:
            names: none where its prompts are to be centred alone.
            looked: what was seen of other files, for the record.
        """
        return self.finish_pending()._erase(names, request, looked)

    def bank_rows(self, ids: Sequence[int]) -> Rows:
        """The rows of the classes of these numbers, in that order."""
        return self._bank.rows(ids)

    def suspend(self, keys: ClassKeys, *, profile: str = "default") -> "Bundle":
        """Leave classes out of a profile's answers, which can be undone: nothing of them is removed.

        A profile is made by the first suspension in it. The profile "default" counts wherever no
        other one is named.

        Raises:
            ClassNameError: an unknown class, or no class would be left in the profile.
        """
        return self._edit_profile(keys, profile, lambda left_out, chosen: left_out | chosen)

    def restore(self, keys: ClassKeys, *, profile: str = "default") -> "Bundle":
        """Undo `suspend`.

        Raises:
            ClassNameError: an unknown class or profile.
        """
        self.suspended(profile)
        return self._edit_profile(keys, profile, lambda left_out, chosen: left_out - chosen)

    def _edit_profile(self, keys: ClassKeys, profile: str, edit: Callable[[set[int], set[int]], set[int]]) -> "Bundle":
        keys = class_keys(keys)
        with locked(self.folder / LOCK):
            bundle = Bundle.open(self.folder).finish_pending()
            chosen = {bundle.classes.ids[p] for p in bundle.classes.positions(keys)}
            profiles = bundle.stated.profiles
            left_out = edit(set(profiles.get(profile, ())), chosen)
            if left_out >= set(bundle.classes.ids):
                raise ClassNameError(f"no class would be left in profile {profile!r}; leave at least one active")
            write_manifest(self.folder, {**bundle.manifest, "profiles": {**profiles, profile: sorted(left_out)}})
            return Bundle.open(self.folder)

    def _erase(self, names: Sequence[str], request: Request, looked: Mapping[str, Any]) -> "Bundle":
        positions = self.classes.positions(names)
        if names or not request.centre_prompts:
            check_removal(self.classes, positions)
        ids = [self.classes.ids[p] for p in positions]
        gone = [{"id": self.classes.ids[p], "name": self.classes.names[p]} for p in positions]
        exact = None if self.exact is None else self.exact.without(ids)
        solved = None if exact is None else exact.solve_or_say(self.folder)[0]
        # prompts that were centred before are again: the one that goes would be minus the sum of the others
        centre = self.prompts_centred is not None and (request.centre_prompts or self.prompts_centred)
        bank = self._bank.without(ids, solved=solved, centre_prompts=centre)
        rows, kept = self.search_rows(ids), self.search_rows(i for i in self.classes.ids if i not in ids)
        searched = search_files(self.folder, bank, rows, kept=kept, names=self.stated.files)
        changed = [solving.SOLVED_ANEW] if solved else [*CENTRED] if self.stated.signatures.takes_rows else []
        claims = [SUM_LEFT] if self.shape.has_prompts_alone and not centre else []
        record = ledger.seal(
            self._records,
            {
                "action": "erase",
                "classes": gone,
                "file": BANK,
                "sha256_before": self._bank.sha256,
                "sha256_after": sha256_bytes(bank),
                "changed": [*changed, *([CENTRED_PROMPTS] if centre else [])],
                **({PROMPTS_CENTRED: True} if centre else {}),
                "searched": searched.to_dict(),
                "remains": [*REMAINS, self.follows, *claims] if exact is None else [COPIES],
                **({} if exact is None else {"exact": exact.claim(is_solved=solved is not None)}),
                "reason": request.reason,
                "requested_by": request.requested_by,
                **({"looked": dict(looked)} if looked else {}),
            },
        )
        if solved:
            solving.keep_for(self.folder, bank, like=self.folder / BANK)
        ledger.write(self.folder / LEDGER, [*self._records, record])
        return Bundle.open(self.folder).finish_pending()

    def finish_pending(self) -> "Bundle":
        """Complete an erasure that was interrupted, if there is one."""
        if self._pending is None:
            return self
        after = self._pending["sha256_after"]
        if self._bank.sha256 != after:
            # one that an older version began is completed as it was announced
            gone, is_centred = [number for number, _ in self.pending], "changed" in self._pending
            bank = solving.kept_for(self.folder, after) or self._bank.without(
                gone, is_centred=is_centred, centre_prompts=self._pending.get(PROMPTS_CENTRED) is True
            )
            write_bytes(self.folder / BANK, bank)
        size = (self.folder / BANK).stat().st_size
        exact = None if self.exact is None else self.exact.finished(self._pending.get("exact", {}))
        if exact is not None:
            solving.drop(self.folder, (number for number, _ in self.pending))
        document = {
            **self.manifest,
            **({} if exact is None else {"exact": exact.to_dict()}),
            **{name: NOT_ANY_MORE for name in MEASURED if name in self.manifest},
            "classes": [{"id": i, "name": n} for i, n in zip(self.classes.ids, self.classes.names, strict=True)],
            "erased": [*self.manifest["erased"], *self._pending["classes"]],
            "profiles": {name: [i for i in out if i in self.classes.ids] for name, out in self.stated.profiles.items()},
            "files": {**self.manifest["files"], BANK: {"sha256": after, "size_bytes": size}},
            "ledger_head": self._pending["hash"],
        }
        write_manifest(self.folder, document)
        return Bundle.open(self.folder)
