"""Both losses against a reference that goes example by example and class by class."""

import math

import pytest
import torch

from pfm.training.objective import absent_loss, others_target, present_loss


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0]])
LABELS = torch.tensor([0, 2, 1])
INF = math.inf


def test_with_the_own_prompt_the_loss_is_the_cross_entropy_with_the_label() -> None:
    expected = [-math.log(softmax(row)[label]) for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    assert present_loss(LOGITS, LABELS, has_unknown=False).tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_competes_with_the_label_as_a_fixed_logit_of_zero() -> None:
    expected = [
        -math.log(softmax([*row, 0.0])[label]) for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    assert present_loss(LOGITS, LABELS, has_unknown=True).tolist() == pytest.approx(expected, abs=1e-6)


def test_without_the_own_prompt_the_loss_is_kl_from_uniform_to_the_output() -> None:
    def kl(row: list[float]) -> float:
        return sum((1 / len(row)) * (math.log(1 / len(row)) - math.log(p)) for p in softmax(row))

    expected = [kl(row) for row in LOGITS.tolist()]
    loss = absent_loss(LOGITS, has_unknown=False)
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)
    batchmean = torch.nn.functional.kl_div(LOGITS.log_softmax(1), torch.full((3, 3), 1 / 3), reduction="batchmean")
    assert float(loss.mean()) == pytest.approx(float(batchmean), abs=1e-6)


def test_an_absent_class_takes_no_part_in_the_uniform_target() -> None:
    logits = torch.tensor([[2.0, -INF, 0.5], [-INF, 0.3, -INF]])
    expected = [float(absent_loss(torch.tensor([[2.0, 0.5]]), has_unknown=False)), 0.0]
    assert absent_loss(logits, has_unknown=False).tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_is_the_target_when_the_own_prompt_is_absent() -> None:
    logits = torch.tensor([[2.0, -INF, 0.5], [-INF, -INF, -INF]])
    expected = [-math.log(1 / (math.exp(2) + math.exp(0.5) + 1)), 0.0]
    assert absent_loss(logits, has_unknown=True).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("has_unknown", [False, True])
def test_no_gradient_is_lost_to_infinities(has_unknown: bool) -> None:
    scores = torch.tensor([[2.0, 0.5], [1.0, -1.0]], requires_grad=True)
    logits = torch.full((3, 4), -INF).scatter(
        1, torch.tensor([[0, 2], [1, 3], [0, 1]]), torch.cat([scores, scores[:1]])
    )
    logits = torch.cat([logits, torch.full((1, 4), -INF)])  # and a row with no class at all
    absent_loss(logits, has_unknown=has_unknown).sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad != 0).any()


def test_uniform_logits_are_the_minimum() -> None:
    assert absent_loss(torch.full((1, 7), 3.0), has_unknown=False).item() == pytest.approx(0.0, abs=1e-6)


def test_the_target_from_others_is_the_answer_over_them_alone_and_its_minimum_is_that_answer() -> None:
    target = others_target(LOGITS.clone().requires_grad_(), LABELS)
    assert not target.requires_grad
    for row, label, found in zip(LOGITS.tolist(), LABELS.tolist(), target.tolist(), strict=True):
        rest = softmax([value for i, value in enumerate(row) if i != label])
        assert found == pytest.approx([*rest[:label], 0.0, *rest[label:]], abs=1e-6)
    found = absent_loss(LOGITS, has_unknown=False, target=target)
    expected = [
        sum(q * (math.log(q) - math.log(p)) for q, p in zip(t, softmax(row), strict=True) if q)
        for t, row in zip(target.tolist(), LOGITS.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    same = absent_loss(target.clamp_min(1e-12).log(), has_unknown=False, target=target)
    assert same.tolist() == pytest.approx([0.0] * 3, abs=1e-6)
