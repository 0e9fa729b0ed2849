"""Nothing stored: what the judged file still holds of the classes, and what putting that back gives."""

from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.verdict import FAIL, PASS, by_number
from pfm.errors import TraceFoundError
from pfm.forgetting.erase import class_rows
from pfm.forgetting.search import search


class StoredFigures(TypedDict):
    """What the file holds.

    Keys:
        classes: numbers of the classes whose prompts are there.
        trace: where a row of theirs is in the file all the same, under whatever name; "" where none was found.
        forget_accuracy: with those prompts put back, in [0, 1]; None where there are none.
    """

    classes: list[int]
    trace: str
    forget_accuracy: float | None


class Stored:
    """A file that was only suspended from holds the prompt, and the class with it."""

    name = "stored"
    about = "the file"

    def measure(self, models: Models) -> Measurement[StoredFigures]:
        held, trace = sorted(models.left_over), "" if models.left_over else _trace(models)
        found: StoredFigures = {"classes": held, "trace": trace, "forget_accuracy": None}
        reason = trace or "the file holds no prompt, classifier row or moment of the classes"
        if held:
            split = models.groups.forget_test
            log_p = models.subject("stored", models.judged).log_probabilities(split)
            again = float((log_p.argmax(dim=1) == split.labels).double().mean())
            found["forget_accuracy"] = again
            reason = (
                f"the file holds the prompt of {len(held)} of the classes (suspended, not erased); put back, they are "
                f"answered for {again:.1%} of their samples"
            )
        judgement = by_number(
            "erase",
            "nothing stored",
            len(held) + bool(trace),
            limit=0,
            verdict=FAIL if held or trace else PASS,
            reason=reason,
        )
        return Measurement(found, (judgement,))

    def show(self, figures: StoredFigures) -> str:
        return ""  # the verdict's reason says it all


def _trace(models: Models) -> str:
    """Where the judged file has a row of the classes under another name or number; "" where it has none."""
    if models.judged_file is None:
        return ""
    others = [p for p in range(len(models.full.classes)) if p not in models.positions]
    rows, kept = class_rows(models.full, models.positions), class_rows(models.full, others)
    try:
        search(models.judged_file.read_bytes(), rows, kept=kept, file=models.judged_file.name)
    except TraceFoundError as error:
        return str(error).partition(";")[0]
    return ""
