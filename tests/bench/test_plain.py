"""The plain reference is the same model as ours: same logits, same gradients, same answers."""

import random

import pytest
import torch

from making.images import coloured_images
from making.models import tiny_model, tiny_spec
from pfm.data.images import ImagePreprocess, from_arrays
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.samples import Samples
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings
from pfm.model.draws import MODES
from pfm.seeds import make_generator
from pfm.training.config import ObjectiveConfig
from pfm.training.objective import Objective
from pfm_bench.targets.plain import (
    PlainClassifier,
    PlainEvaluation,
    build_plain_optimizer,
    choose_others,
    choose_with_own,
    plain_step,
)

LORA = LoraSettings(lora_dropout=0.0)  # so that both see the same
PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


def assert_equal(actual: torch.Tensor | None, expected: torch.Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)  # float32 sums in another order


def twins() -> tuple[PromptedClassifier, PlainClassifier]:
    ours = tiny_model(lora=LORA, tune="lora")
    plain = PlainClassifier(tiny_spec(), ours.num_classes, LORA).eval()
    plain.load_weights_of(ours)
    return ours, plain


@pytest.mark.parametrize("size", [0, 1, 3])
def test_logits_are_equal_for_the_same_weights_and_the_same_prompts_of_each_sample(size: int) -> None:
    ours, plain = twins()
    inputs, labels = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0])
    dice = random.Random(0)
    for chosen in (choose_with_own(labels, 4, size, dice), choose_others(labels, 4, size, dice)):
        present = torch.tensor(chosen, dtype=torch.int64).reshape(5, -1)
        with torch.no_grad():
            assert_equal(plain(inputs, chosen), ours.logits(inputs, present))


def test_the_samples_of_a_batch_see_prompts_of_their_own() -> None:
    labels, dice = torch.arange(4).repeat(8), random.Random(0)
    mixed = choose_with_own(labels, 4, 2, dice)
    assert all(own == classes[0] and len(set(classes)) == 3 for own, classes in zip(labels, mixed, strict=True))
    wrong = choose_others(labels, 4, 2, dice)
    assert all(own not in classes and len(set(classes)) == 2 for own, classes in zip(labels, wrong, strict=True))
    assert len({tuple(classes) for classes in wrong}) > 4


def test_a_step_has_the_losses_and_gradients_of_ours() -> None:
    ours, plain = twins()
    inputs, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    mixed, wrong = choose_with_own(labels, 4, 1, random.Random(1)), choose_others(labels, 4, 2, random.Random(1))
    with_own, without_own = ours(inputs, (torch.tensor(mixed), torch.tensor(wrong)))
    losses = Objective(ours, ObjectiveConfig())(with_own, without_own, labels)
    losses.mean().backward()
    present, absent = losses.present.mean(), losses.absent.mean()

    numbers = plain_step(plain, torch.optim.SGD(plain.parameters(), lr=0.0), inputs, labels, mixed, wrong)
    assert numbers["present"] == pytest.approx(present.item(), abs=1e-5)
    assert numbers["absent"] == pytest.approx(absent.item(), abs=1e-5)
    assert numbers["loss"] == pytest.approx(numbers["present"] + numbers["absent"], abs=1e-5)
    assert ours.bank.prompts.grad is not None
    for i in range(4):
        assert_equal(plain.prompts[str(i)].grad, ours.bank.prompts.grad[i])
    gradients = {name: tensor.grad for name, tensor in ours.backbone.encoder.named_parameters() if "lora_" in name}
    for name, tensor in plain.encoder.named_parameters():
        assert tensor.requires_grad == (name in gradients)
        if name in gradients:
            assert_equal(tensor.grad, gradients[name])


def test_a_step_changes_what_trains_and_nothing_else() -> None:
    _, plain = twins()
    before = {name: tensor.clone() for name, tensor in plain.named_parameters()}
    labels = torch.arange(4)
    every, none = [list(range(4))] * 4, [[]] * 4
    plain_step(plain, build_plain_optimizer(plain), torch.randn(4, 3, 8, 8), labels, every, none)
    changed = {name for name, tensor in plain.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {name for name, tensor in plain.named_parameters() if tensor.requires_grad}


def test_evaluation_gives_the_answers_of_ours() -> None:
    ours, plain = twins()
    images, labels = coloured_images(22)
    split = Split(from_arrays(images, "test"), torch.from_numpy(labels[:, 0].astype("int64")))
    cpu = torch.device("cpu")
    samples = Samples.of(split, torch.arange(4), PREPROCESS, cpu)
    evaluator = Evaluator(samples, Processes(device=cpu), batch_size=5, seed=0)
    singles = [(i,) for i in range(4)]
    sets = [*singles, (0, 1), (1, 2, 3), (0, 1, 2, 3), ()]
    table = evaluator.run(ours, sets, {})
    reference = PlainEvaluation(split.inputs, PREPROCESS, device=cpu, batch_size=5)
    for active in sets:
        assert torch.equal(reference.answers(plain, active), table.answers[active]), active
    assert torch.equal(reference.infer_best(plain), ours.predict(table.best_single))
    assert len(set(table.answers[(0, 1, 2, 3)].tolist())) > 1  # not one answer for everything


def test_its_draws_are_of_the_same_kind_as_ours() -> None:
    labels = torch.arange(4)
    ours = MODES["mixed_subset"](labels, 4, make_generator(0))
    plain = choose_with_own(labels, 4, ours.shape[1] - 1, random.Random(0))
    assert torch.tensor(plain).shape == ours.shape
    assert torch.equal(torch.tensor(plain)[:, 0], ours[:, 0])
