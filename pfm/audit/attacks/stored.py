"""Nothing stored: what the judged file still holds of the classes, and what putting that back gives."""

from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.models import Models
from pfm.audit.verdict import FAIL, PASS, by_number


class StoredFigures(TypedDict):
    """What the file holds.

    Keys:
        classes: numbers of the classes whose prompts are there.
        forget_accuracy: with those prompts put back, in [0, 1]; None where there are none.
    """

    classes: list[int]
    forget_accuracy: float | None


class Stored:
    """A file that was only suspended from holds the prompt, and the class with it."""

    name = "stored"
    about = "the file"

    def measure(self, models: Models) -> Measurement[StoredFigures]:
        held = sorted(models.left_over)
        found: StoredFigures = {"classes": held, "forget_accuracy": None}
        reason = "the file holds no prompt, classifier row or moment of the classes"
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
            len(held),
            limit=0,
            verdict=FAIL if held else PASS,
            reason=reason,
        )
        return Measurement(found, (judgement,))

    def show(self, figures: StoredFigures) -> str:
        return ""  # the verdict's reason says it all
