"""What centring does to answers.

An erasure moves the classifier rows that are left, and with them all logits of a forward by one number, another one
for each forward. Probabilities stay. `infer_best` runs a forward for each prompt and takes the largest logit of all of
them, so its answers can change. Both are computed, and the difference is said.

Prompts that are centred enter the transformer, so that any answer can change.
"""

from dataclasses import asdict, dataclass

from pfm.forgetting.answers import AnswersChange, Asked, compare_answers, of_all, of_each_alone
from pfm.model.checkpoint import Checkpoint
from pfm.model.readouts import READOUTS

RANDOM = Asked()


@dataclass(frozen=True, kw_only=True)
class InferBestChange(AnswersChange):
    """`infer_best`, with the rows as they were and as the erasure left them."""

    def describe(self) -> str:
        """One line for people."""
        return (
            f"infer_best, which compares logits of different forwards, answers {self.share} otherwise than before the "
            f"rows were centred{self.rates}; probabilities stay as they were"
        )


@dataclass(frozen=True, kw_only=True)
class PromptsChange(AnswersChange):
    """The answers with every prompt there, with the prompts as they were and centred."""

    def describe(self) -> str:
        """One line for people."""
        easily = "" if self.rates else "; samples change less often, which --on_test_data measures"
        return f"{self.share} are answered otherwise than before the prompts were centred{self.rates}{easily}"


def infer_best_change(full: Checkpoint, erased: Checkpoint, asked: Asked = RANDOM) -> InferBestChange | None:
    """Compute `infer_best` before and after; None where no class has a classifier row, and nothing was centred.

    Args:
        full: what was erased from.
        erased: what `pfm.forgetting.erase.erase` made of it.

    Raises:
        DataError: the samples are not of these classes.
        BackboneError: the model cannot be built.
    """
    if not READOUTS.get(full.model.readout).class_rows:
        return None
    return InferBestChange(**asdict(compare_answers(full, erased, of_each_alone, asked)))


def prompts_change(uncentred: Checkpoint, centred: Checkpoint, asked: Asked = RANDOM) -> PromptsChange:
    """What centring the prompts does to the answers; both models have the same classes, and the same rest.

    Raises:
        DataError: the samples are not of these classes.
        BackboneError: the model cannot be built.
    """
    return PromptsChange(**asdict(compare_answers(uncentred, centred, of_all, asked)))
