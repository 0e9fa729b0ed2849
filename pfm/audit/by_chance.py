"""What somebody gets who knows nothing: the same attack with random prompts in place of the formulas, many times.

The best of several formulas is no match for one random prompt: the best of as many random prompts is, each as large as
the formula that it stands for and as much like the others as that one is. So a *round* is the same attack with all
prompts turned by one random rotation, and all classifier rows by another. Formulas that are variants of one idea
(moved, made larger, with another classifier row) are one attack, and ideas are compared each on its own. An idea tells
something where none of `20 · ideas - 1` rounds does as well: that is so by luck once in `20 · ideas` times, and once in
20 over all ideas, whatever their number. So a further idea cannot hide one that is there: it takes the luck that is
allowed from 1/(20·n) to 1/(20·(n + 1)), and no more. Only variants of an idea weigh on that idea itself.

A round that does as well settles an idea, so that most need no more than those that are drawn for the record (Besag
and Clifford, Sequential Monte Carlo p-values, Biometrika 78, 1991).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from pfm.audit.derivable import Candidates, turned
from pfm.audit.derived import IdeaBack

LUCK = 20  # rounds for each idea: one in so many may be as good as a formula that tells nothing

Attack = Callable[[Candidates], torch.Tensor]  # -> (A,) how far the class comes back with each


@dataclass(frozen=True, kw_only=True)
class ByChance:
    """What random prompts bring back.

    Attributes:
        rounds: (R, A) of each round, a random prompt for each candidate.
        ideas: what was compared, in the order of the candidates.
    """

    rounds: torch.Tensor
    ideas: tuple[IdeaBack, ...]

    @property
    def best(self) -> torch.Tensor:
        """(R,) the best of each round."""
        return self.rounds.max(dim=1).values


def compare_with_chance(
    candidates: Candidates, selective: torch.Tensor, attack: Attack, *, rounds: int, generator: torch.Generator
) -> ByChance:
    """Set each idea beside random prompts.

    Args:
        selective: (A,) what each candidate brings back.
        rounds: that are drawn in any case, for the record.
    """
    drawn = torch.stack([attack(turned(candidates, generator)) for _ in range(rounds)])  # (R, A)
    most = max(rounds, LUCK * len(candidates.ideas) - 1)
    ideas = tuple(
        _compare(idea, candidates.chosen(places), selective[places], drawn[:, places], attack, most, generator)
        for idea, places in candidates.ideas.items()
    )
    return ByChance(rounds=drawn, ideas=ideas)


def _compare(
    idea: str,
    variants: Candidates,
    selective: torch.Tensor,
    drawn: torch.Tensor,
    attack: Attack,
    most: int,
    generator: torch.Generator,
) -> IdeaBack:
    """One idea: further rounds are drawn until one of them does as well, or there are enough."""
    own = float(selective.max())
    best = drawn.max(dim=1).values.tolist()
    while max(best) < own and len(best) < most:
        best.append(float(attack(turned(variants, generator)).max()))
    return IdeaBack(
        idea=idea,
        way=variants.names[int(selective.argmax())],
        selective=own,
        num_ways=len(variants.names),
        rounds=len(best),
        as_good=sum(value >= own for value in best),
        best_random=max(best),
    )
