"""How much is evaluated, as options."""

from dataclasses import dataclass
from typing import ClassVar

from pfm.options import Section, option


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How much is evaluated, and in what portions."""

    section: ClassVar = Section.EVALUATION
    eval_batch_size: int = option(128, "Images or clips per batch in evaluation.", minimum=1)
    max_subsets: int | None = option(
        500, "Evaluate at most this many subsets for each k, drawn with the seed where there are more.", minimum=1
    )
    resamples: int = option(
        1000, "Resamples, of samples or of their groups, that the 95 % intervals are read off; 0: none.", minimum=0
    )
    exact_subsets: bool = option(
        False, "Solve anew for each set of classes that is left, instead of leaving rows out (--readout ridge only)."
    )
