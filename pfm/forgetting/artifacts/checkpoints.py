"""Checkpoints of ours and of the paper's tool: any file that torch wrote, whatever it is called."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfm.errors import PfmError
from pfm.forgetting.artifacts.kind import SHARED, Holding, HoldingKind, Look, Rewritten, unreadable
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
        return Holding(
            classes=checkpoint.classes,
            erased=checkpoint.erased,
            ledger_head=checkpoint.ledger_head,
            is_exact=checkpoint.is_personal,
            still="" if checkpoint.is_personal else KNEW_IT if checkpoint.exact else SHARED,
            follows="" if checkpoint.exact else follows(checkpoint.start),
            elsewhere=(Path(checkpoint.init_key),) if checkpoint.init_key else (),
        )

    def left(self, path: Path, gone: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
        """With a digest of each prompt, which the erasure of another class leaves as it is."""
        from pfm.forgetting.content import checkpoint_content

        return [
            {"id": c.number, "name": c.name, "prompt": c.prompt}
            for c in checkpoint_content(path).classes
            if (c.number, c.name) not in gone
        ]

    def rewrite(self, path: Path, classes: Sequence[tuple[int, str]], head: str) -> Rewritten | None:
        from pfm.forgetting.erase import erase
        from pfm.model.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        if checkpoint.ledger_head == head:
            return None
        numbers = {number for number, _ in classes}
        there = [number for number in checkpoint.classes.ids if number in numbers]
        smaller = erase(checkpoint, there) if there else checkpoint
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
