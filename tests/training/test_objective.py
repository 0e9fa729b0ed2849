"""Both losses of every target against a reference that goes example by example and class by class."""

import math
from collections.abc import Callable

import pytest
import torch

from making.models import tiny_model
from pfm.model.targets import TARGETS
from pfm.training.config import ObjectiveConfig
from pfm.training.objective import Objective, class_weights


def softmax(row: list[float]) -> list[float]:
    weights = [math.exp(value) for value in row]
    return [weight / sum(weights) for weight in weights]


LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 4.0, 1.0]])
LABELS = torch.tensor([0, 2, 1])
INF = math.inf
UNIFORM, OTHERS, NONE = (TARGETS.get(name) for name in ("uniform", "others", "none"))


def uniform_loss(logits: torch.Tensor) -> torch.Tensor:
    """(B,) of the target that looks at neither the labels nor the other branch."""
    return UNIFORM.absent_loss(logits, logits, torch.zeros(len(logits), dtype=torch.int64))


def none_loss(logits: torch.Tensor) -> torch.Tensor:
    return NONE.absent_loss(logits, logits, torch.zeros(len(logits), dtype=torch.int64))


def test_with_the_own_prompt_the_loss_is_the_cross_entropy_with_the_label() -> None:
    expected = [-math.log(softmax(row)[label]) for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    assert UNIFORM.present_loss(LOGITS, LABELS).tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_competes_with_the_label_as_a_fixed_logit_of_zero() -> None:
    expected = [
        -math.log(softmax([*row, 0.0])[label]) for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)
    ]
    assert NONE.present_loss(LOGITS, LABELS).tolist() == pytest.approx(expected, abs=1e-6)


def test_without_the_own_prompt_the_loss_is_kl_from_uniform_to_the_output() -> None:
    def kl(row: list[float]) -> float:
        return sum((1 / len(row)) * (math.log(1 / len(row)) - math.log(p)) for p in softmax(row))

    expected = [kl(row) for row in LOGITS.tolist()]
    loss = uniform_loss(LOGITS)
    assert loss.tolist() == pytest.approx(expected, abs=1e-6)
    batchmean = torch.nn.functional.kl_div(LOGITS.log_softmax(1), torch.full((3, 3), 1 / 3), reduction="batchmean")
    assert float(loss.mean()) == pytest.approx(float(batchmean), abs=1e-6)


def test_an_absent_class_takes_no_part_in_the_uniform_target() -> None:
    logits = torch.tensor([[2.0, -INF, 0.5], [-INF, 0.3, -INF]])
    expected = [float(uniform_loss(torch.tensor([[2.0, 0.5]]))), 0.0]
    assert uniform_loss(logits).tolist() == pytest.approx(expected, abs=1e-6)


def test_unknown_is_the_target_when_the_own_prompt_is_absent() -> None:
    logits = torch.tensor([[2.0, -INF, 0.5], [-INF, -INF, -INF]])
    expected = [-math.log(1 / (math.exp(2) + math.exp(0.5) + 1)), 0.0]
    assert none_loss(logits).tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("absent_loss", [uniform_loss, none_loss])
def test_no_gradient_is_lost_to_infinities(absent_loss: Callable[[torch.Tensor], torch.Tensor]) -> None:
    scores = torch.tensor([[2.0, 0.5], [1.0, -1.0]], requires_grad=True)
    logits = torch.full((3, 4), -INF).scatter(
        1, torch.tensor([[0, 2], [1, 3], [0, 1]]), torch.cat([scores, scores[:1]])
    )
    logits = torch.cat([logits, torch.full((1, 4), -INF)])  # and a row with no class at all
    absent_loss(logits).sum().backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert (scores.grad != 0).any()


def test_uniform_logits_are_the_minimum() -> None:
    assert uniform_loss(torch.full((1, 7), 3.0)).item() == pytest.approx(0.0, abs=1e-6)


def test_the_target_from_others_is_the_answer_over_them_alone_and_its_minimum_is_that_answer() -> None:
    with_own = LOGITS.clone().requires_grad_()
    without = torch.tensor([[0.5, 1.0, -2.0], [1.0, 0.0, 0.0], [0.3, 0.1, -0.4]], requires_grad=True)
    found = OTHERS.absent_loss(with_own, without, LABELS)
    targets = []
    for row, label in zip(LOGITS.tolist(), LABELS.tolist(), strict=True):
        rest = softmax([value for i, value in enumerate(row) if i != label])
        targets.append([*rest[:label], 0.0, *rest[label:]])
    expected = [
        sum(q * (math.log(q) - math.log(p)) for q, p in zip(target, softmax(row), strict=True) if q)
        for target, row in zip(targets, without.tolist(), strict=True)
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    found.sum().backward()
    assert with_own.grad is None  # the target has no gradient
    same = OTHERS.absent_loss(LOGITS, torch.tensor(targets).clamp_min(1e-12).log(), LABELS)
    assert same.tolist() == pytest.approx([0.0] * 3, abs=1e-6)


def test_with_prompts_alone_the_ratios_of_the_classes_that_both_branches_see_are_kept() -> None:
    with_own = torch.tensor([[1.0, 2.0, -INF, 0.5, -1.0], [0.3, -INF, 1.2, -INF, -INF]], requires_grad=True)
    labels = torch.tensor([0, 2])
    without = torch.tensor([[-INF, 2.5, 0.7, 0.0, -INF], [0.1, 0.4, -INF, -INF, -INF]], requires_grad=True)
    found = OTHERS.absent_loss(with_own, without, labels)
    q, p = softmax([2.0, 0.5]), softmax([2.5, 0.0])  # of the two that are in both; the one that is not has no part
    wanted = sum(a * (math.log(a) - math.log(b)) for a, b in zip(q, p, strict=True))
    assert found.tolist() == pytest.approx([wanted, 0.0], abs=1e-6)  # one class alone says nothing
    found.sum().backward()
    assert with_own.grad is None
    assert without.grad is not None
    assert without.grad.isfinite().all()
    assert without.grad[1].abs().sum() == 0
    shifted = OTHERS.absent_loss(with_own, (with_own + 3).detach().scatter(1, labels[:, None], -INF), labels)
    assert shifted.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_label_smoothing_is_torchs_where_all_classes_are_present() -> None:
    logits, labels = torch.randn(7, 5), torch.randint(5, (7,))
    wanted = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    torch.testing.assert_close(UNIFORM.present_loss(logits, labels, 0.2), wanted)


def test_label_smoothing_leaves_absent_classes_out() -> None:
    logits = torch.randn(3, 5)
    logits[:, 3:] = -torch.inf
    labels = torch.tensor([0, 1, 2])
    wanted = torch.nn.functional.cross_entropy(logits[:, :3], labels, label_smoothing=0.3, reduction="none")
    torch.testing.assert_close(UNIFORM.present_loss(logits, labels, 0.3), wanted)


@pytest.mark.parametrize("wrong_target", ["uniform", "others"])
def test_the_objective_has_the_losses_of_the_models_target_and_all_options(wrong_target: str) -> None:
    labels = torch.tensor([0, 0, 1, 3])
    with_own, without_own = torch.randn(2, 4, 4).unbind()
    config = ObjectiveConfig(label_smoothing=0.1, absent_weight=0.5, balance="weights")
    losses = Objective.over(tiny_model(wrong_target=wrong_target), config, labels)(with_own, without_own, labels)
    target = TARGETS.get(wrong_target)
    torch.testing.assert_close(losses.present, target.present_loss(with_own, labels, 0.1))
    torch.testing.assert_close(losses.absent, target.absent_loss(with_own, without_own, labels))
    weights = class_weights(labels, 4)[labels]
    wanted = sum(
        float(weight) * (float(present) + 0.5 * float(absent))
        for weight, present, absent in zip(weights, losses.present, losses.absent, strict=True)
    )
    assert losses.mean().item() == pytest.approx(wanted / 4, abs=1e-6)
    numbers = losses.sums(torch.full((4,), 1 / 4))
    assert numbers["loss"].item() == pytest.approx(wanted / 4, abs=1e-6)
    assert numbers["loss"] == numbers["present"] + 0.5 * numbers["absent"]


def test_a_temperature_makes_the_target_from_others_flatter_or_surer_and_leaves_the_others_alone() -> None:
    without = torch.tensor([[0.5, 1.0, -2.0], [1.0, 0.0, 0.0], [0.3, 0.1, -0.4]])
    hot = ObjectiveConfig(target_temperature=2.0)
    found = Objective(tiny_model(wrong_target="others"), hot)(LOGITS, without, LABELS)
    torch.testing.assert_close(found.absent, OTHERS.absent_loss(LOGITS / 2, without, LABELS))
    torch.testing.assert_close(found.present, OTHERS.present_loss(LOGITS, LABELS))
