"""A training run that is going on: it holds its classes in memory, and writes them with its next checkpoint."""

from collections.abc import Sequence
from pathlib import Path

from pfm.classes import ClassList
from pfm.forgetting.artifacts.kind import HEAD, Holding, HoldingKind, Look, Rewritten
from pfm.holding import RUN, run_in


class RunKind(HoldingKind):
    """The file that a run holds. The line in the ledger is what stops the run, at its next checkpoint."""

    name = "run"
    is_kept = False
    stops_by_itself = True

    def recognises(self, look: Look) -> bool:
        return look.path.name == RUN and look.size <= HEAD and look.head[:1] in (b"", b"{")

    def open(self, path: Path) -> Holding:
        return Holding(classes=run_in(path.parent) or ClassList((), ()))

    def rewrite(
        self, path: Path, classes: Sequence[tuple[int, str]], head: str, *, centre_prompts: bool = False
    ) -> Rewritten | None:
        del path, classes, head, centre_prompts
        return Rewritten(content=None)


RUNNING = RunKind()
