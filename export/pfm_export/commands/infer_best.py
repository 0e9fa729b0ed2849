"""What an erasure does to `infer_best`, said before it is made: the one answer that centred rows can change."""

from typing import TYPE_CHECKING

from pfm.errors import PfmError

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint

_MOST_RANDOM, _FEWEST_RANDOM = 256, 16
_BUDGET = 2e12  # floating-point operations that are spent without being asked: seconds on one core


def infer_best_note(full: "Checkpoint", names: list[str], *, on_test_data: bool) -> str | None:
    """A line on `infer_best` before and after the erasure; None where no row is centred.

    Args:
        names: of the classes that are about to be erased from `full`.
        on_test_data: answer the run's test samples and not random inputs, however long it takes.

    Raises:
        PfmError: with `on_test_data`, where data or model cannot be loaded.
    """
    from pfm.forgetting.erase import erase
    from pfm.forgetting.infer_best import infer_best_change
    from pfm.model.flops import StepWork, step_flops
    from pfm.model.readouts import READOUTS

    # without rows nothing is centred; rows that are solved anew are seen in one forward
    if full.exact or not READOUTS.get(full.model.readout).class_rows:
        return None

    if on_test_data:
        from pfm.commands.options import data_of_run
        from pfm.data.config import DataConfig
        from pfm.data.loading import load_data

        data = load_data(data_of_run(full, DataConfig()), full.preprocess.storage)
        change = infer_best_change(full, erase(full, names), data.test, data.classes)
        return change.describe() if change else None
    one_prompt = StepWork(prompts=(full.model.prompt_tokens,), num_scores=1, rank=0, has_backward=False)
    count = min(_MOST_RANDOM, int(_BUDGET / (step_flops(full.spec, one_prompt) * 2 * len(full.classes))))
    if count < _FEWEST_RANDOM:
        return (
            "infer_best, which compares logits of different forwards, can change; computing it takes a while: give "
            "--on_test_data, or compare pfm eval before and after"
        )
    try:
        change = infer_best_change(full, erase(full, names), num_random=count)
    except PfmError as error:  # a backbone that is not there: the erasure does not need it
        return f"infer_best, which compares logits of different forwards, can change; not computed, since {error}"
    return change.describe() if change else None
