"""Which prompts each example sees: the two training draws and the paper's inference modes.

Letters: B batch, C classes in the bank, s how many other prompts are drawn.

All draws are in the gathered form of `pfm.model.classifier`: positions (B, s) int64. Generators live on the
CPU and are derived from the run's seed and the step, so a draw does not depend on the device, on
the number of processes or on what ran before.
"""

from collections.abc import Callable

import torch


def draw_size(num_classes: int, generator: torch.Generator) -> int:
    """s ~ U{0, …, C-1}: how many other prompts a batch sees."""
    return int(torch.randint(num_classes, (), generator=generator))


def others(labels: torch.Tensor, num_classes: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """`size` distinct classes (B, size) for each example, uniformly among those that are not its own."""
    keys = torch.rand(len(labels), num_classes - 1, generator=generator)
    chosen = keys.argsort(dim=1)[:, :size]  # (B, size) in 0..C-2
    return chosen + (chosen >= labels[:, None])  # skip the own class


def mixed_subset(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """The own prompt and s others, (B, 1 + s)."""
    size = draw_size(num_classes, generator)
    return torch.cat([labels[:, None], others(labels, num_classes, size, generator)], dim=1)


def wrong_subset(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    """s′ prompts, never the own one, (B, s′); s′ = 0 is no prompt at all."""
    return others(labels, num_classes, draw_size(num_classes, generator), generator)


def branch_subsets(
    labels: torch.Tensor, num_classes: int, generator: torch.Generator, *, is_nested: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """The two training draws: a mixed subset (B, 1 + s) and a wrong one (B, s′), s′ = (1 + s) mod C.

    Each of s and s′ is U{0, …, C-1}, as in the paper, where they are drawn apart. Tying them gives
    both branches the same number of tokens, so that they are one batch without a mask; only where
    all C prompts are present (once in C steps) the other branch has none.

    Args:
        is_nested: the wrong subset has the others of the mixed one, and one more.
    """
    size = draw_size(num_classes, generator)
    if is_nested:
        every = others(labels, num_classes, num_classes - 1, generator)  # (B, C - 1) in a random order
        return torch.cat([labels[:, None], every[:, :size]], dim=1), every[:, : (1 + size) % num_classes]
    mixed = torch.cat([labels[:, None], others(labels, num_classes, size, generator)], dim=1)
    return mixed, others(labels, num_classes, (1 + size) % num_classes, generator)


def shared_set(positions: list[int], batch_size: int, device: torch.device) -> torch.Tensor:
    """One active set for every example, (B, s)."""
    row = torch.tensor(positions, dtype=torch.int64, device=device)
    return row.expand(batch_size, -1)


Draw = Callable[[torch.Tensor, int, torch.Generator], torch.Tensor]


def _full_bank(labels: torch.Tensor, num_classes: int, _: torch.Generator) -> torch.Tensor:
    return torch.arange(num_classes).expand(len(labels), -1)


def _full_bank_shuffle(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(len(labels), num_classes, generator=generator).argsort(dim=1)


def _match_only(labels: torch.Tensor, _: int, __: torch.Generator) -> torch.Tensor:
    return labels[:, None]


def _all_wrong(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    return others(labels, num_classes, num_classes - 1, generator)


def _random_wrong(labels: torch.Tensor, num_classes: int, generator: torch.Generator) -> torch.Tensor:
    return others(labels, num_classes, min(1, num_classes - 1), generator)


def _none(labels: torch.Tensor, _: int, __: torch.Generator) -> torch.Tensor:
    return labels.new_empty(len(labels), 0)


# the paper's inference modes, as draws; `class_<i>` and `infer_best` are built in `pfm.evaluation.modes`
MODES: dict[str, Draw] = {
    "full_bank": _full_bank,
    "full_bank_shuffle": _full_bank_shuffle,
    "match_only": _match_only,
    "mixed_subset": mixed_subset,
    "all_wrong": _all_wrong,
    "wrong_subset": wrong_subset,
    "random_wrong": _random_wrong,
    "none": _none,
}
