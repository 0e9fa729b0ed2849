"""The paper's inference modes, read off the table of answers.

The sets of `all_wrong` are those that forget one class, and `infer_best` is read off the sets of one prompt.

Letters: N samples of this process, C classes in the bank.
"""

import torch

from pfm.evaluation.subsets import complement
from pfm.evaluation.table import ActiveSet, Table
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import MODES, Draw
from pfm.seeds import make_generator

# the paper's modes, besides `class_<i>` for each class
MODE_NAMES = (*MODES, "infer_best")
# the shuffled bank and the two subset modes differ from sample to sample; the sets of all else are shared
DRAWN: dict[str, Draw] = {name: MODES[name] for name in ("full_bank_shuffle", "mixed_subset", "wrong_subset")}


def mode_sets(num_classes: int) -> list[ActiveSet]:
    """The active sets that the modes are read off: all prompts, none, each alone, all but each."""
    everything = tuple(range(num_classes))
    return [everything, (), *((i,) for i in everything), *(complement([i], num_classes) for i in everything)]


def mode_answers(
    model: PromptedClassifier, table: Table, labels: torch.Tensor, own: torch.Tensor, *, seed: int
) -> dict[str, torch.Tensor]:
    """The answers (N,) to this process's samples by inference mode.

    Args:
        table: of `mode_sets` and `DRAWN`, at least.
        labels: of the whole split, positions in the bank, -1 where the class was erased.
        own: (N,) which of the samples are this process's.
    """
    num_classes = model.num_classes
    everything = tuple(range(num_classes))
    labels = labels.clamp_min(0)
    truth, rows = labels[own], torch.arange(len(own))
    draw, generator = MODES["random_wrong"], make_generator(seed, "random_wrong")
    wrong = draw(labels, num_classes, generator)[own, 0] if num_classes > 1 else truth
    singles = torch.stack([table.answers[(i,)] for i in everything])  # (C, N)
    without_one = torch.stack([table.answers[complement([i], num_classes)] for i in everything])  # (C, N)
    return {
        "full_bank": table.answers[everything],
        "full_bank_shuffle": table.drawn["full_bank_shuffle"],
        **{f"class_{model.classes.ids[i]}": singles[i] for i in everything},
        "match_only": singles[truth, rows],
        "mixed_subset": table.drawn["mixed_subset"],
        "all_wrong": without_one[truth, rows],
        "wrong_subset": table.drawn["wrong_subset"],
        "random_wrong": singles[wrong, rows],
        "none": table.answers[()],
        "infer_best": model.predict(table.best_single),
    }
