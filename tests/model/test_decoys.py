"""Prompts of no class beside those of classes: what they are, and that they are scored and never right."""

import torch
from torch.nn import functional as F

from making.models import tiny_model
from pfm.model.decoys import LARGEST, SMALLEST, Decoys, decoy_prompts, draw_decoys
from pfm.seeds import make_generator
from pfm.training.config import ObjectiveConfig
from pfm.training.objective import Objective


def test_the_first_decoy_is_minus_the_sum_of_the_prompts_there_and_the_others_are_random() -> None:
    there = torch.randn(3, 4 * 2, 8, generator=make_generator(0))  # four prompts of two tokens
    drawn = draw_decoys((3, 2, 8), make_generator(1))
    for evens in (0.0, 1.0):
        found = decoy_prompts(there, torch.tensor(5.0), Decoys(drawn.directions, torch.tensor(evens)))
        assert found.shape == (3, 6, 8)
        total = -there.view(3, 4, 2, 8).sum(dim=1)
        if evens:
            total *= 5 / total.flatten(1).norm(dim=1).view(-1, 1, 1)
        assert torch.allclose(found[:, :2], total, atol=1e-5)
        sizes = found[0, 2:].view(2, 16).norm(dim=1) / 5
        assert ((sizes > SMALLEST - 1e-5) & (sizes < LARGEST + 1e-5)).all()
        assert torch.equal(found[0, 2:], found[1, 2:])


def test_decoys_of_a_step_follow_from_its_key() -> None:
    first, again, other = (draw_decoys((3, 1, 8), make_generator(7, 0, step, "decoys")) for step in (1, 1, 2))
    assert torch.equal(first.directions, again.directions)
    assert not torch.equal(first.directions, other.directions)
    assert {float(draw_decoys((1, 1, 8), make_generator(step)).evens) for step in range(20)} == {0.0, 1.0}


def test_scores_of_decoys_stand_behind_the_logits_and_lose_in_both_branches() -> None:
    model = tiny_model(readout="prompt", wrong_target="none")
    inputs, labels = torch.randn(5, 3, 8, 8, generator=make_generator(2)), torch.tensor([0, 1, 2, 3, 0])
    drawn = draw_decoys((3, 1, model.row_size), make_generator(3))
    presents = torch.stack([labels, (labels + 1) % 4], dim=1), torch.stack([(labels + 2) % 4, (labels + 3) % 4], dim=1)
    with_own, without_own = model(inputs, presents, decoys=drawn)
    assert with_own.shape == without_own.shape == (5, 4 + 3)
    prompts = model.bank.gather(presents[0])
    joined = torch.cat([prompts, decoy_prompts(prompts, size_of(model), drawn)], dim=1)
    outputs = model.read(model.trunk(inputs), joined)
    scores = F.linear(outputs, *model.readout.weights(model)).squeeze(-1)  # (B, 2 + 3)
    assert torch.allclose(with_own[:, 4:], scores[:, 2:], atol=1e-5)
    assert torch.allclose(with_own.gather(1, presents[0]), scores[:, :2], atol=1e-5)
    losses = Objective(model, ObjectiveConfig(decoys=3))(with_own, without_own, labels)
    whole = torch.cat([with_own, torch.zeros(5, 1)], dim=1)
    assert torch.allclose(losses.present, -whole.log_softmax(dim=1)[range(5), labels])
    losses.mean().backward()
    assert model.bank.prompts.grad is not None
    assert model.bank.prompts.grad.isfinite().all()


def test_where_no_prompt_is_there_no_decoy_is_shown() -> None:
    model = tiny_model(readout="prompt", wrong_target="none")
    nothing = torch.empty(2, 0, dtype=torch.int64)
    (logits,) = model(torch.zeros(2, 3, 8, 8), [nothing], decoys=draw_decoys((2, 1, model.row_size), make_generator(0)))
    assert torch.equal(logits, torch.full((2, 4), -torch.inf))


def size_of(model: torch.nn.Module) -> torch.Tensor:
    return model.get_parameter("bank.prompts").detach().flatten(1).norm(dim=1).mean()
