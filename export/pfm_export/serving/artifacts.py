"""What of an export can hold a class: a bundle, a bank that stands alone, and graphs, which hold none. No torch."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pfm.classes import ClassList
from pfm.errors import BundleError
from pfm.forgetting.artifacts import (
    ARTIFACT_KINDS,
    FOLDER_KINDS,
    ArtifactKind,
    FolderKind,
    Holding,
    HoldingKind,
    Look,
    Request,
    Rewritten,
    RowsOf,
    Verdict,
)
from pfm.forgetting.artifacts.kind import unreadable
from pfm.forgetting.artifacts.walk import Walk, walk
from pfm.forgetting.centring import centred
from pfm.forgetting.ledger import LEDGER
from pfm.forgetting.search import search
from pfm_export.serving.bank import BANK, Bank, Rows, tensor_names
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.damage import damaged_files
from pfm_export.serving.graph_names import graph_names
from pfm_export.serving.manifest import MANIFEST, is_bundle
from pfm_export.serving.signature import INPUT_BIAS, INPUT_PROMPTS, INPUT_WEIGHT, TOKENS
from pfm_export.serving.solving import KNEW_IT, SOLVED, SUMS

NEEDS_MEMORY = f"{KNEW_IT}; exact ones need the memory of the checkpoint: forget there, and export again"
_ROWS = ("prompt.", "weight.", "bias.")
_MOVED = 1e-5  # of the largest value, by which prompts that were moved together differ after rounding


class BundleKind(FolderKind):
    """A folder with the manifest of a bundle."""

    name = "bundle"

    def recognises(self, folder: Path) -> bool:
        return is_bundle(folder)

    def members(self, folder: Path) -> tuple[Path, ...]:
        return tuple(folder / name for name in (BANK, MANIFEST, LEDGER, SOLVED)) + tuple(folder.glob(SUMS))

    def open(self, folder: Path) -> Holding:
        bundle = Bundle.open(folder)
        gone = (*bundle.stated.erased, *bundle.pending)
        if bundle.exact is None:
            return Holding(
                classes=bundle.classes, erased=gone, follows=bundle.follows,
                prompts_centred=bundle.prompts_centred, sum_claims=bundle.shape.has_prompts_alone,
            )  # fmt: skip
        still = "" if bundle.is_exact else NEEDS_MEMORY
        is_exact = bundle.exact.has_sums and not still
        return Holding(classes=bundle.classes, erased=gone, is_exact=is_exact, still=still)

    def rows(self, folder: Path, numbers: Collection[int]) -> RowsOf:
        bundle = Bundle.open(folder)
        there = bundle.classes.ids
        return RowsOf(
            bundle.search_rows(i for i in there if i in numbers),
            bundle.search_rows(i for i in there if i not in numbers),
        )

    def damage(self, folder: Path) -> tuple[str, ...]:
        return damaged_files(Bundle.open(folder))

    def finish(self, folder: Path) -> bool:
        bundle = Bundle.open(folder)
        bundle.finish_pending()
        return bool(bundle.pending)

    def erase(self, folder: Path, names: Sequence[str], request: Request, looked: Mapping[str, Any]) -> None:
        Bundle.open(folder).erase_held(names, request, looked)


class BankKind(HoldingKind):
    """A bank that stands alone, such as a backup; the manifest beside it says which classes its rows are."""

    name = "bank"
    is_kept = False

    def recognises(self, look: Look) -> bool:
        names = tensor_names(look.path, look.head)
        return any(name.startswith("prompt.") for name in names)

    def open(self, path: Path) -> Holding:
        bank, ever = self._read(path)
        numbers = {int(name.rpartition(".")[2]) for name in bank.names}
        there = [position for position, number in enumerate(ever.ids) if number in numbers]
        gone = [(number, name) for number, name in zip(ever.ids, ever.names, strict=True) if number not in numbers]
        return Holding(classes=ever.keep(there), erased=tuple(gone), prompts_centred=bank.prompts_centred)

    def rows(self, path: Path, numbers: Collection[int]) -> RowsOf:
        bank, _ = self._read(path)
        there = {int(name.rpartition(".")[2]) for name in bank.names}
        return RowsOf(bank.search_rows(there & {*numbers}), bank.search_rows(there - {*numbers}))

    def rewrite(
        self, path: Path, classes: Sequence[tuple[int, str]], head: str, *, centre_prompts: bool = False
    ) -> Rewritten | None:
        del head
        bank, _ = self._read(path)
        there = {int(name.rpartition(".")[2]) for name in bank.names}
        gone = [number for number, _ in classes if number in there]
        if not gone and (not centre_prompts or bank.prompts_centred):
            return None
        content = bank.without(gone, centre_prompts=centre_prompts)
        searched = search(content, bank.search_rows(gone), kept=bank.search_rows(there - {*gone}), file=path.name)
        return Rewritten(content=content, facts={"searched": searched.to_dict()})

    def _read(self, path: Path) -> tuple[Bank, ClassList]:
        """The bank, and the classes of the bundle it is of, those that are erased included.

        Raises:
            CheckpointError: the bundle that it belongs to is missing, or is another one.
        """
        if not is_bundle(path.parent):
            raise unreadable(path, "a bank without a manifest beside it: nothing says whose prompts these are")
        bundle = Bundle.open(path.parent)
        try:
            bank = Bank.parse(path.read_bytes(), bundle.shape, path)
            numbers = {int(name.rpartition(".")[2]) for name in bank.names if name.startswith(_ROWS)}
        except (BundleError, OSError, ValueError) as error:
            raise unreadable(path, "a bank that is damaged") from error
        ever = bundle.classes.with_erased((*bundle.stated.erased, *bundle.pending))
        shared = [number for number in bundle.classes.ids if number in numbers]
        is_own = bank.missing(shared) is None and numbers <= set(ever.ids) and len(numbers) * 3 >= len(bank.names)
        if not is_own or not shared or not _same_but_moved(bank.rows(shared), bundle.bank_rows(shared), len(shared)):
            raise unreadable(path, "the bank of another bundle than the one beside it: nothing says whose prompts")
        return bank, ever


def _same_but_moved(first: Rows, second: Rows, count: int) -> bool:
    """Whether the prompts of so many classes are the same, or are but for what all were moved by."""
    if np.array_equal(first.prompts, second.prompts):
        return True
    pair = [centred(rows.prompts.reshape(count, -1, rows.prompts.shape[1])) for rows in (first, second)]
    return count > 1 and bool(np.allclose(*pair, rtol=0, atol=_MOVED * float(np.abs(pair[0]).max(initial=0))))


class GraphKind(ArtifactKind):
    """An ONNX file that takes its classes as inputs, as ours do, or is the trunk of one that does."""

    name, verdict = "graph", Verdict.CLEAN

    def recognises(self, look: Look) -> bool:
        if look.head[:1] != b"\x08":  # the field `ir_version`, which comes first in what anybody writes
            return False
        names = graph_names(look.path)
        if names is None or names.is_sparse or names.stored & {INPUT_PROMPTS, INPUT_WEIGHT, INPUT_BIAS}:
            return False
        return INPUT_PROMPTS in names.inputs or names.outputs == (TOKENS,)

    def how(self, look: Look) -> str:
        del look
        return "an ONNX graph that takes its classes as inputs and has none stored"


BUNDLE = FOLDER_KINDS.register("bundle", BundleKind())
BANK_FILE = ARTIFACT_KINDS.register("bank", BankKind())
GRAPH = ARTIFACT_KINDS.register("graph", GraphKind())


def look_at(paths: Sequence[Path], also: Sequence[Path] = ()) -> Walk:
    """The walk over some paths, which knows what is in an export; see `pfm.forgetting.artifacts.walk`."""
    return walk(paths, also)
