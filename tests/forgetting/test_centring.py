"""Nothing of an erased row follows from the rows that are left, by the formulas that gave it before."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from making.checkpoints import trained_state
from pfm.forgetting.centring import centred
from pfm.forgetting.erase import erase

GONE, NUM_CLASSES, WIDTH = 3, 10, 256
SOFTMAX_STEPS = 60

Rows = torch.Tensor  # (C, D + 1), the bias last


def trained(optimizer: str) -> tuple[Rows, Rows, dict[str, torch.Tensor]]:
    """Rows before and after some training with a softmax, and the optimizer's state of the weight."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(WIDTH, NUM_CLASSES)
    with torch.no_grad():
        layer.weight.copy_(0.1 * torch.randn(NUM_CLASSES, WIDTH, generator=generator))
        layer.bias.zero_()
    start = torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach().clone()
    kinds: dict[str, Callable[..., torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr=3e-3),
        "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1),
    }
    steps = kinds[optimizer](list(layer.parameters()))
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=generator)
    for _ in range(SOFTMAX_STEPS):
        labels = torch.randint(NUM_CLASSES, (64,), generator=generator)
        inputs = centres[labels] + 0.5 * torch.randn(64, WIDTH, generator=generator)
        steps.zero_grad()
        F.cross_entropy(layer(inputs), labels).backward()
        steps.step()
    return start, torch.cat([layer.weight, layer.bias[:, None]], dim=1).detach(), steps.state[layer.weight]


def guesses(kept: Rows, start: Rows) -> dict[str, torch.Tensor]:
    """What somebody takes the erased row for who has those that are left, and the start of all of them."""
    others = torch.arange(NUM_CLASSES) != GONE
    return {
        "minus the sum of the others": -kept.sum(dim=0),
        "zero sum of what training moved": start.sum(dim=0) - kept.sum(dim=0),
        "the start": start[GONE],
        "the start, moved as the siblings were": start[GONE] + (kept - start[others]).mean(dim=0),
        "the start, moved against the siblings": start[GONE] - (kept - start[others]).sum(dim=0),
    }


def likeness(guess: torch.Tensor, row: torch.Tensor) -> float:
    """Cosine of two rows, their own mean over the classes aside; 0 for a guess that is nothing."""
    return float(F.cosine_similarity(guess.double(), row.double(), dim=0)) if guess.norm() > 1e-4 else 0.0


def best_zero_sum(kept: Rows, start: Rows, row: torch.Tensor) -> float:
    """Of the guesses that use the sum, what training did to the row left alone: its start is not erased here."""
    found = guesses(kept, start)
    moved = row - start[GONE]
    sums = (
        found["minus the sum of the others"],
        found["zero sum of what training moved"] - start[GONE],
        found["the start, moved against the siblings"] - start[GONE],
    )
    return max(likeness(guess, moved) for guess in sums)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_the_row_follows_from_the_others_until_they_are_centred(optimizer: str) -> None:
    start, rows, _ = trained(optimizer)
    kept = rows[torch.arange(NUM_CLASSES) != GONE]
    assert best_zero_sum(kept, start, rows[GONE]) > (0.99 if optimizer == "sgd" else 0.4)  # the control
    after = torch.from_numpy(centred(kept.numpy()))
    # what the formula gives now is the start's own sum, which knows nothing of the class: no likeness beyond chance
    chance = 3 / math.sqrt(WIDTH)
    assert best_zero_sum(after, start, rows[GONE]) < chance


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_first_moment_follows_from_the_others(optimizer: str) -> None:
    """Why all moments go: no centring of those that are left would help the next one."""
    _, _, state = trained(optimizer)
    moment = state["momentum_buffer" if optimizer == "sgd" else "exp_avg"]
    guess = moment[GONE] - moment.sum(dim=0)
    assert float((guess - moment[GONE]).norm() / moment[GONE].norm()) < 1e-3


def test_after_two_erasures_the_second_row_does_not_follow_either() -> None:
    """The first erasure's centring makes the sum zero: the second one's has to take it away again."""
    _, rows, _ = trained("adam")
    first = centred(rows[torch.arange(NUM_CLASSES) != GONE].numpy())
    left = first[1:]
    assert likeness(torch.from_numpy(-left.sum(axis=0)), torch.from_numpy(first[0])) > 0.999  # the control
    assert np.abs(centred(left).astype(np.float64).sum(axis=0)).max() < 1e-6  # nothing but rounding


def test_every_copy_of_the_rows_is_centred_in_a_checkpoint() -> None:
    after = erase(trained_state(), ["blue"])
    for tensors in (after.tensors, after.averaged):
        for name in ("classifier.weight", "classifier.bias"):
            assert len(tensors[name]) == 3
            assert tensors[name].sum(dim=0).abs().max() < 1e-6
            assert tensors[name].abs().max() > 1e-3


def test_the_mean_is_exact_whatever_the_order_of_adding() -> None:
    rows = np.array([[1e8], [1.0], [-1e8], [2.0]], np.float32)
    for order in ([0, 1, 2, 3], [3, 0, 2, 1], [1, 3, 0, 2]):
        np.testing.assert_array_equal(centred(rows[order]), (rows[order].astype(np.float64) - 0.75).astype(np.float32))
    assert centred(np.array([5.0, 7.0], np.float32)).tolist() == [-1.0, 1.0]
    assert centred(np.zeros((0, 4), np.float32)).shape == (0, 4)
