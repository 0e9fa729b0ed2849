"""How much of an example's gradient reaches what belongs to other classes: their prompts and their classifier rows.

With all of it, as in the paper, the others' rows learn to turn away from an example's class, and go on doing so when
the class is erased: by that it can be told. With none of it they never learn what is not theirs, and overshoot. Values
are the same with any share.

Letters: B batch, C classes, s prompts an example sees, m tokens per prompt, D hidden size.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Passing:
    """A share of the gradient, and whose example each one is.

    Attributes:
        own: (B,) positions of the examples' classes.
        share: what passes to other classes, in [0, 1].
    """

    own: torch.Tensor
    share: float

    def repeated(self, times: int) -> "Passing":
        """For as many choices of present prompts, one after the other."""
        return Passing(self.own.repeat(times), self.share)

    def reduced(self, values: torch.Tensor) -> torch.Tensor:
        """The values, with the share of their gradient."""
        constant = values.detach()
        return constant + self.share * (values - constant)

    def prompts(self, prompts: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """(B, s·m, D) of the classes `present` (B, s): all gradient to the own one."""
        if present.shape[1] == 0:
            return prompts
        is_own = (present == self.own[:, None]).repeat_interleave(prompts.shape[1] // present.shape[1], dim=1)
        return torch.where(is_own[:, :, None], prompts, self.reduced(prompts))

    def scores(self, scores: torch.Tensor, reduced: torch.Tensor) -> torch.Tensor:
        """(B, C) of the rows themselves for the own class, of the reduced ones for the others."""
        is_own = torch.arange(scores.shape[1], device=scores.device) == self.own[:, None]  # (B, C)
        return torch.where(is_own, scores, reduced)
