"""What a share of the gradient does to prompts and rows of other classes, beside the whole of it."""

import pytest
import torch
from torch.nn import functional as F

from making.models import tiny_model
from pfm.model.passing import Passing

LABELS = torch.tensor([0, 2, 2])
PRESENT = torch.tensor([[0, 1], [2, 3], [1, 2]])
ABSENT = torch.tensor([[2, 1], [0, 3], [1, 0]])


def gradients(readout: str, share: float | None, which: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits of both branches, and the gradients of the prompts and rows from the examples `which`."""
    model = tiny_model(readout=readout).train()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))[which]
    passing = None if share is None else Passing(LABELS[which], share)
    with_own, without_own = model(images, [PRESENT[which], ABSENT[which]], passing=passing)
    finite = without_own.clamp_min(-1e3)
    (F.cross_entropy(with_own, LABELS[which]) + finite.softmax(dim=1).square().sum()).backward()
    found: dict[str, torch.Tensor] = {}
    for name in model.class_row_names:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        found[name] = gradient.clone()
    return torch.stack([with_own, without_own]).detach(), found


@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_a_share_of_the_gradient_reaches_other_classes_and_all_of_it_the_own_one(readout: str) -> None:
    which = torch.tensor([1, 2])  # of class 2
    logits, whole = gradients(readout, None, which)
    for share in (0.0, 0.25, 1.0):
        same, less = gradients(readout, share, which)
        assert torch.equal(same, logits)
        for name, gradient in less.items():
            factor = torch.full((4, *[1] * (gradient.ndim - 1)), share)
            factor[2] = 1.0
            assert torch.allclose(gradient, factor * whole[name], atol=1e-7), name


def test_with_none_of_it_what_belongs_to_a_class_is_taught_by_its_own_examples_alone() -> None:
    _, all_examples = gradients("cls", 0.0, torch.arange(3))
    assert all(bool((gradient[[1, 3]] == 0).all()) for gradient in all_examples.values())
    assert all(bool((gradient[[0, 2]] != 0).any()) for gradient in all_examples.values())
