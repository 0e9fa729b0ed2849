"""Forgetting k classes with every remaining set solved anew, for a readout whose weights are a function of sums.

Leaving rows out of the full solution is fast, and is what a request gets at once. Solving for what is left is what an
erasure gets: the model that never saw the others.
"""

import dataclasses

import torch

from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.results import Evaluation
from pfm.evaluation.subsets import SubsetAccuracies, complement
from pfm.exact.memory import Memory
from pfm.exact.sums import num_packed
from pfm.model.classifier import PromptedClassifier
from pfm.model.readouts.ridge import rows_of
from pfm.model.views import Source, Views

MOST_SUMS_BYTES = 2**31


class Remembered:
    """What the model made of each batch, kept for the next set: the features do not depend on it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept: dict[tuple[int, int], Views] = {}

    def views(self, model: PromptedClassifier, index: torch.Tensor) -> Views:
        """What the model sees of the samples at `index` (B,), which stand together."""
        key = int(index[0]), len(index)
        if key not in self._kept:
            self._kept[key] = self.source.views(model, index)
        return self._kept[key]


def solve_subsets(evaluator: Evaluator, model: PromptedClassifier, measured: Evaluation, memory: Memory) -> Evaluation:
    """The evaluation with the subsets' accuracies of sets that were each solved for.

    Args:
        memory: of the model's checkpoint.

    Raises:
        ConfigError: it keeps nothing to solve from.
    """
    if memory.keeps == "features" and num_packed(memory.recipe.width) * 8 * len(memory.classes) < MOST_SUMS_BYTES:
        memory = memory.kept_as("sums")  # so that a set costs a solve and no more
    samples = evaluator.samples
    evaluator.samples = dataclasses.replace(samples, source=Remembered(samples.source))
    names = model.classes.names
    own = {name: model.get_parameter(name).detach().clone() for name in model.readout.class_rows}
    subsets: list[SubsetAccuracies] = []
    for entry in measured.subsets:
        forget, retain = [], []
        for removed in entry.subsets:
            kept = complement(removed, model.num_classes)
            _put(model, rows_of(memory, names, tuple(names[place] for place in kept)))
            found = evaluator.accuracy_of_set(model, kept)
            forget.append(found.forget)
            retain.append(found.retain)
        subsets.append(dataclasses.replace(entry, forget=forget, retain=retain))
    _put(model, own)
    evaluator.samples = samples
    return dataclasses.replace(measured, subsets=subsets)


@torch.no_grad()
def _put(model: PromptedClassifier, rows: dict[str, torch.Tensor]) -> None:
    for name, values in rows.items():
        model.get_parameter(name).copy_(values)
