"""Checkpoints of ours and of the paper's tool: any file that torch wrote, whatever it is called."""

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfm.errors import PfmError
from pfm.forgetting.artifacts.kind import SHARED, Holding, HoldingKind, Left, Look, Rewritten, RowsOf, unreadable
from pfm.model.starts import follows

if TYPE_CHECKING:
    from pfm.forgetting.search import SearchReport
    from pfm.model.checkpoint import Checkpoint

KNEW_IT = "rows of the solution that knew the class"
# how torch begins a file without a zip around it: the pickle of its magic number
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class CheckpointKind(HoldingKind):
    """What `load_checkpoint` reads."""

    name = "checkpoint"

    def recognises(self, look: Look) -> bool:
        if look.head.startswith(_OLD_TORCH):
            return True
        return any(member.rpartition("/")[2] == "data.pkl" for member in look.members or ())

    def open(self, path: Path) -> Holding:
        from pfm.model.checkpoint import load_checkpoint

        try:
            checkpoint = load_checkpoint(path)
        except PfmError as error:  # torch wrote it, and it may hold anything
            raise unreadable(path, "torch wrote it, and it is not a checkpoint of pfm or is damaged") from error
        from pfm.forgetting.erase import prompts_are_centred
        from pfm.model.readouts import READOUTS

        readout = READOUTS.get(checkpoint.model.readout)
        return Holding(
            prompts_centred=prompts_are_centred(checkpoint) if readout.sees_prompts else None,
            sum_claims=readout.sees_prompts and not readout.class_rows,
            classes=checkpoint.classes,
            erased=checkpoint.erased,
            ledger_head=checkpoint.ledger_head,
            is_exact=checkpoint.is_personal,
            keeps_samples=checkpoint.keeps_samples,
            still="" if checkpoint.is_personal else KNEW_IT if checkpoint.exact else SHARED,
            follows="" if checkpoint.exact else follows(checkpoint.start),
            elsewhere=(Path(checkpoint.init_key),) if checkpoint.init_key else (),
        )

    def left(self, path: Path, gone: Sequence[tuple[int, str]], *, centre_prompts: bool = False) -> list[Left]:
        """With a digest of each prompt, as the erasure leaves it."""
        from pfm.forgetting.content import prompts_of
        from pfm.forgetting.erase import without
        from pfm.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        pairs = zip(checkpoint.classes.ids, checkpoint.classes.names, strict=True)
        numbers = [number for number, name in pairs if (number, name) in gone]
        if centre_prompts:
            checkpoint, numbers = without(checkpoint, numbers, centre_prompts=True), []
        return [entry for entry in prompts_of(checkpoint) if entry.get("id") not in numbers]

    def rows(self, path: Path, numbers: Collection[int]) -> RowsOf:
        from pfm.forgetting.erase import class_rows
        from pfm.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        ids = checkpoint.classes.ids
        gone = [position for position, number in enumerate(ids) if number in numbers]
        return RowsOf(
            class_rows(checkpoint, gone), class_rows(checkpoint, (p for p in range(len(ids)) if p not in gone))
        )

    def rewrite(
        self, path: Path, classes: Sequence[tuple[int, str]], head: str, *, centre_prompts: bool = False
    ) -> Rewritten | None:
        from pfm.forgetting.erase import without
        from pfm.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        if checkpoint.ledger_head == head:
            return None
        numbers = {number for number, _ in classes}
        there = [number for number in checkpoint.classes.ids if number in numbers]
        smaller = without(checkpoint, there, centre_prompts=centre_prompts)
        content, searched = content_of(checkpoint, smaller, head, path.name)
        return Rewritten(content=content, facts={"searched": searched.to_dict(), **exact_facts(smaller)})


def exact_facts(checkpoint: "Checkpoint") -> "dict[str, Any]":
    """What a ledger says of an exact readout; nothing of others."""
    record = checkpoint.exact
    if not record:
        return {}
    weights = "solved from what is left" if record["is_solved"] else KNEW_IT
    return {"exact": {"digest": record["digest"], "weights": weights}}


def content_of(checkpoint: "Checkpoint", smaller: "Checkpoint", head: str, name: str) -> "tuple[bytes, SearchReport]":
    """The bytes of the smaller of two checkpoints, and what they were searched for before they are written.

    Raises:
        TraceFoundError: they hold something of a class that is gone.
    """
    from pfm.forgetting.erase import class_rows
    from pfm.forgetting.search import search
    from pfm.model.checkpoint import checkpoint_bytes

    content = checkpoint_bytes(dataclasses.replace(smaller, ledger_head=head))
    gone = [p for p, number in enumerate(checkpoint.classes.ids) if number not in smaller.classes.ids]
    kept = class_rows(smaller, range(len(smaller.classes)))
    return content, search(content, class_rows(checkpoint, gone), kept=kept, file=name)


CHECKPOINT = CheckpointKind()
