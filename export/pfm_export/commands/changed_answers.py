"""What an erasure does to answers, said before it is made.

About the classes that stay: centred rows can change one answer, `infer_best`; centred prompts any. About the class that
goes: whether the model forgot it at all when its prompt alone was away.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pfm.errors import PfmError

if TYPE_CHECKING:
    from pfm.forgetting.answers import Asked
    from pfm.model.checkpoint import Checkpoint

CHANGED_IN_GENERAL = (
    "centring the prompts changes some answers about other classes; on most models that were measured 1 to 13 % of "
    "single answers and up to 3 points of accuracy, on a weak one 22 % and 12 points (docs/results.md)"
)
_MOST_RANDOM, _FEWEST_RANDOM = 256, 16
_BUDGET = 2e12  # floating-point operations that are spent without being asked: seconds on one core


def notes_on_answers(
    full: "Checkpoint", names: Sequence[str], *, on_test_data: bool, centre_prompts: bool
) -> list[str]:
    """A line on each kind of answer that changes, before and after the erasure.

    Args:
        names: of the classes that are about to be erased from `full`; none where its prompts are centred alone.
        on_test_data: answer the run's test samples and not random inputs, however long it takes.

    Raises:
        PfmError: with `on_test_data`, where data or model cannot be loaded.
    """
    from pfm.forgetting.erase import prompts_are_centred, without
    from pfm.forgetting.hidden import answered_without_its_prompt
    from pfm.forgetting.infer_best import infer_best_change, prompts_change
    from pfm.model.readouts import READOUTS

    readout = READOUTS.get(full.model.readout)
    if not readout.sees_prompts:  # rows that are solved anew are seen in one forward
        return []
    erased = without(full, names, centre_prompts=centre_prompts)
    # what was centred before is centred again, and moves as little as the prompt that goes weighs
    moves = prompts_are_centred(erased)
    asked, why_not = _asked(full, 2 * len(full.classes) if readout.class_rows and names else 2, on_test_data)
    notes: list[str] = []
    try:
        if moves:
            notes += [prompts_change(full, erased, asked).describe() if asked else CHANGED_IN_GENERAL]
        elif readout.class_rows and asked is None:
            notes += [f"infer_best, which compares logits of different forwards, can change; {why_not}"]
        elif names and asked is not None and (change := infer_best_change(full, erased, asked)):
            notes += [change.describe()]
        if on_test_data and asked is not None:
            notes += [said for name in names if (said := answered_without_its_prompt(full, name, asked))]
    except PfmError as error:  # a backbone that is not there: the erasure does not need it
        if on_test_data:
            raise
        what = CHANGED_IN_GENERAL if moves else "infer_best, which compares logits of different forwards, can change"
        notes += [f"{what}; not computed, since {error}"]
    return notes


def _asked(full: "Checkpoint", forwards: int, on_test_data: bool) -> "tuple[Asked | None, str]":
    """What is asked, or None and why nothing is.

    Args:
        forwards: of each input.
    """
    from pfm.forgetting.answers import Asked
    from pfm.model.flops import StepWork, step_flops

    if on_test_data:
        from pfm.commands.options import data_of_run
        from pfm.data.config import DataConfig
        from pfm.data.loading import load_data

        data = load_data(data_of_run(full, DataConfig()), full.preprocess.storage)
        return Asked(split=data.test, data=data.classes), ""
    one_prompt = StepWork(prompts=(full.model.prompt_tokens,), num_scores=1, rank=0, has_backward=False)
    count = min(_MOST_RANDOM, int(_BUDGET / (step_flops(full.spec, one_prompt) * forwards)))
    if count < _FEWEST_RANDOM:
        return None, "computing it takes a while: give --on_test_data, or compare pfm eval before and after"
    return Asked(num_random=count), ""
