"""What an erasure changes in `infer_best` is computed with the model that is left and the one that was."""

import dataclasses

import pytest
import torch

from making.checkpoints import image_checkpoint, trained_state
from pfm.data.splits import Split
from pfm.forgetting.answers import Asked
from pfm.forgetting.erase import erase
from pfm.forgetting.hidden import answered_without_its_prompt
from pfm.forgetting.infer_best import infer_best_change
from pfm.model.checkpoint import Checkpoint


def spread() -> Checkpoint:
    """A model whose rows are large, so that forwards move by numbers that matter."""
    state = image_checkpoint("cls")
    generator = torch.Generator().manual_seed(1)
    width = state.spec.hidden_size
    rows = torch.randn(4, width, generator=generator) + 3 * torch.randn(width, generator=generator)
    prompts = 3 * torch.randn(state.tensors["bank.prompts"].shape, generator=generator)
    return dataclasses.replace(state, tensors={**state.tensors, "classifier.weight": rows, "bank.prompts": prompts})


def by_hand(state: Checkpoint, inputs: torch.Tensor, kept: list[int]) -> torch.Tensor:
    model, answers = state.build_model(), []
    for one in inputs:
        logits = torch.stack([model.logits(one[None], torch.tensor([[p]]))[0, kept] for p in kept])  # (C, C)
        answers.append(int(logits.max(dim=0).values.argmax()))
    return torch.tensor(answers)


@torch.inference_mode()
def test_on_samples_the_shares_are_those_of_the_answers() -> None:
    full = spread()
    erased = erase(full, ["blue"])
    generator = torch.Generator().manual_seed(0)
    stored = torch.randint(256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (60,), generator=generator)
    found = infer_best_change(full, erased, Asked(split=Split(stored, labels), data=full.classes, batch_size=16))
    assert found is not None
    is_left = labels != 2
    inputs, truth = full.preprocess(stored)[is_left], labels[is_left].clone()
    truth[truth == 3] = 2
    before, after = by_hand(full, inputs, [0, 1, 3]), by_hand(erased, inputs, [0, 1, 2])
    assert found.num_samples == len(truth)
    assert found.before == pytest.approx(float((before == truth).double().mean()))
    assert found.after == pytest.approx(float((after == truth).double().mean()))
    assert found.changed == pytest.approx(float((before != after).double().mean()))
    assert found.changed > 0  # it does change here
    assert f"{100 * found.changed:.1f} % of {len(truth)} test samples otherwise" in found.describe()


def test_without_samples_random_inputs_say_how_many_answers_change() -> None:
    full = spread()
    found = infer_best_change(full, erase(full, ["blue"]), Asked(num_random=40))
    assert found is not None
    assert (found.measured_on, found.num_samples, found.before, found.after) == ("random inputs", 40, None, None)
    assert 0 < found.changed < 1
    assert "right before" not in found.describe()


def test_nothing_is_centred_where_no_class_has_a_row() -> None:
    full = trained_state(readout="prompt")
    assert infer_best_change(full, erase(full, ["blue"])) is None


@torch.inference_mode()
def test_how_far_a_class_is_answered_without_its_prompt_is_said_before_it_is_erased() -> None:
    full = spread()
    stored = torch.randint(256, (40, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = torch.arange(40) % 4
    model = full.build_model()
    answers = model.logits(full.preprocess(stored[labels == 2]), torch.tensor([[0, 1, 3]] * 10)).argmax(dim=1)
    share = float((answers == 2).double().mean())
    asked = Asked(split=Split(stored, labels), data=full.classes, batch_size=4)
    said = answered_without_its_prompt(full, "blue", asked)
    assert said is not None
    assert f"blue was answered for {100 * share:.1f} % of its 10 test samples (chance 25.0 %)" in said
    others = Asked(split=Split(stored[labels != 2], labels[labels != 2]), data=full.classes)
    assert answered_without_its_prompt(full, "blue", others) is None
    assert answered_without_its_prompt(full, "blue", Asked()) is None
    prompt = image_checkpoint("prompt")
    assert answered_without_its_prompt(prompt, "blue", asked) is None
