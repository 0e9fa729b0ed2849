"""The two training draws and the inference modes against a reference written the slow way."""

import math
from collections import Counter

import pytest
import torch

from pfm.model.draws import MODES, branch_subsets, mixed_subset, others, shared_set, wrong_subset
from pfm.seeds import make_generator

C = 5
LABELS = torch.arange(C).repeat(40)
# 99.9 % quantiles of chi-squared, by degrees of freedom
CHI2 = {3: 16.27, 4: 18.47}


def chi_squared(counts: list[int]) -> float:
    expected = sum(counts) / len(counts)
    return sum((count - expected) ** 2 / expected for count in counts)


def test_the_mixed_subset_holds_the_own_prompt_first_and_distinct_others() -> None:
    for step in range(50):
        present = mixed_subset(LABELS, C, make_generator(step))
        assert torch.equal(present[:, 0], LABELS)
        assert all(len(set(row)) == len(row) for row in present.tolist())


def test_the_wrong_subset_never_holds_the_own_prompt() -> None:
    for step in range(50):
        present = wrong_subset(LABELS, C, make_generator(step))
        assert not (present == LABELS[:, None]).any()
        assert all(len(set(row)) == len(row) and set(row) <= set(range(C)) for row in present.tolist())


@pytest.mark.parametrize(("draw", "own"), [(mixed_subset, 1), (wrong_subset, 0)])
def test_the_number_of_others_is_uniform_from_none_to_all(draw: object, own: int) -> None:
    labels = torch.tensor([0, 1])
    sizes = Counter(draw(labels, C, make_generator("size", step)).shape[1] - own for step in range(4000))  # type: ignore[operator]
    assert sorted(sizes) == list(range(C))
    assert chi_squared([sizes[s] for s in range(C)]) < CHI2[C - 1]


def test_the_members_are_uniform_among_the_other_classes_and_differ_between_examples() -> None:
    labels = torch.full((8000,), 2)
    for size in range(1, C - 1):
        drawn = others(labels, C, size, make_generator("members", size))
        counts = Counter(drawn.flatten().tolist())
        assert set(counts) == {0, 1, 3, 4}
        # members of one example exclude each other, so the statistic shrinks by (C-1-size)/(C-2); the bound holds
        assert chi_squared(list(counts.values())) < CHI2[C - 2]
        pairs = {tuple(sorted(row)) for row in drawn.tolist()}
        assert len(pairs) == math.comb(C - 1, size)


def test_a_draw_depends_on_its_key_and_on_nothing_else() -> None:
    first = mixed_subset(LABELS, C, make_generator(1, 2, 3))
    torch.rand(7)  # the global generator plays no part
    assert torch.equal(first, mixed_subset(LABELS, C, make_generator(1, 2, 3)))
    assert any(
        not torch.equal(others(LABELS, C, 2, make_generator(1, 2, 3)), others(LABELS, C, 2, make_generator(*key)))
        for key in ((1, 2, 4), (1, 3, 3), (2, 2, 3))
    )


def reference_mode(name: str, label: int) -> list[set[int]]:
    """Every set of prompts that a mode may show an example of class `label`."""
    everything = set(range(C))
    wrong = everything - {label}
    from itertools import combinations

    subsets = [set(s) for size in range(C) for s in combinations(sorted(wrong), size)]
    return {
        "full_bank": [everything],
        "full_bank_shuffle": [everything],
        "match_only": [{label}],
        "mixed_subset": [s | {label} for s in subsets],
        "all_wrong": [wrong],
        "wrong_subset": subsets,
        "random_wrong": [{other} for other in wrong],
        "none": [set()],
    }[name]


@pytest.mark.parametrize("name", MODES)
def test_each_inference_mode_shows_what_the_paper_says(name: str) -> None:
    seen: dict[int, set[frozenset[int]]] = {label: set() for label in range(C)}
    for step in range(60):
        present = MODES[name](LABELS, C, make_generator(name, step))
        assert present.dtype == torch.int64
        for label, row in zip(LABELS.tolist(), present.tolist(), strict=True):
            assert set(row) in reference_mode(name, label)
            assert len(set(row)) == len(row)
            seen[label].add(frozenset(row))
    for label, sets in seen.items():
        assert sets == {frozenset(s) for s in reference_mode(name, label)}  # and every one of them occurs


def test_the_shuffled_bank_is_shuffled() -> None:
    present = MODES["full_bank_shuffle"](LABELS, C, make_generator(0))
    assert len({tuple(row) for row in present.tolist()}) > 50


def test_two_classes_are_enough_for_every_mode() -> None:
    labels = torch.tensor([0, 1])
    for name, draw in MODES.items():
        assert draw(labels, 2, make_generator(name)).shape[0] == 2


def test_a_shared_set_may_be_empty() -> None:
    assert shared_set([], 3, torch.device("cpu")).shape == (3, 0)
    assert shared_set([2, 0], 3, torch.device("cpu")).tolist() == [[2, 0]] * 3


def test_nested_branches_see_the_same_others_and_one_more() -> None:
    labels, sizes = torch.tensor([0, 4, 2, 2]), set()
    for number in range(60):
        mixed, wrong = branch_subsets(labels, 5, make_generator(number), is_nested=True)
        sizes.add(wrong.shape[1])
        assert torch.equal(mixed[:, 0], labels)
        assert wrong.shape[1] == mixed.shape[1] % 5
        assert (wrong != labels[:, None]).all()
        for seen, left in zip(mixed.tolist(), wrong.tolist(), strict=True):
            assert len(set(left)) == len(left)
            assert not left or set(seen[1:]) < set(left)
    assert sizes == {0, 1, 2, 3, 4}
