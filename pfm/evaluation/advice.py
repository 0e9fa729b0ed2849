"""Advice where a model did not learn, one sentence each: what is seen, and what to do."""

from pfm.evaluation.outcome import Evaluation
from pfm.model.classifier import PromptedClassifier

MOST_UNKNOWN = 0.5  # share of what a model knows that may be answered `unknown`
NEAR_CHANCE = 0.1  # of the way from chance to all right


def advise(measured: Evaluation, model: PromptedClassifier) -> list[str]:
    """Sentences on an evaluation; none where the model learned."""
    accuracy = measured.modes["full_bank"]
    if measured.unknown is not None and measured.unknown.class_present > MOST_UNKNOWN:
        share = 100 * measured.unknown.class_present
        return [
            f"the model answers `unknown` for {share:.0f} % of the classes it knows: it has learned when to say "
            "nothing, and not yet the classes; train longer (--epochs), with --schedule cosine --warmup 0.2, or start "
            "from a pretrained --model_name"
        ]
    chance = max(1 / model.num_classes, measured.largest_class)
    if accuracy - chance < NEAR_CHANCE * (1 - chance):
        return [
            f"accuracy is {100 * accuracy:.1f} %, where one answer for all has {100 * chance:.1f} %: look at the "
            "classes of some samples, train longer (--epochs) or at another --lr, or start from a pretrained "
            "--model_name"
        ]
    return []
