"""The attacks on the weights, each where it must succeed and where it must not: relearning, prototypes, restarts."""

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from making.audits import SMALL
from making.checkpoints import image_checkpoint
from making.models import tiny_model
from pfm.audit import relearning, resurrection
from pfm.audit.attacks import alignment, destinations, neighbours, prototypes, scale, stored
from pfm.audit.models import check_classes
from pfm.audit.prototypes import scores
from pfm.audit.relearning import ADAPTERS, ALL, Lesson, mean_area, relearn, with_class
from pfm.audit.sampled import area_of
from pfm.audit.subject import Loaded
from pfm.audit.verdict import FAIL, INCONCLUSIVE, PASS
from pfm.classes import ClassList
from pfm.data.splits import Split
from pfm.errors import ClassNameError
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, save_checkpoint
from pfm.model.classifier import BANK


def clusters(shift: float) -> tuple[torch.Tensor, torch.Tensor]:
    """30 inputs of a class, moved by `shift`, and 30 others."""
    inputs = torch.randn(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs[:30] += shift
    return inputs[:30], inputs[30:]


def lesson(shift: float) -> Lesson:
    own, rest = clusters(shift)
    labels = torch.tensor([3] * 10 + [n % 3 for n in range(10)])
    return Lesson(torch.cat([own[:10], rest[:10]]), labels, own[10:], rest[10:], torch.arange(20) % 3)


@pytest.mark.parametrize(
    ("name", "kind"), [("cls", ALL), ("cls", ADAPTERS), ("cls-lora-norm-tokens", ADAPTERS), ("prompt", ALL)]
)
def test_a_class_is_learned_again_step_by_step(name: str, kind: str) -> None:
    smaller = erase(image_checkpoint(name), ["grey"])
    before = {key: tensor.clone() for key, tensor in smaller.tensors.items()}
    found = relearn(smaller, lesson(3.0), scope=kind, steps=(0, 2, 12), lr=1e-2, seed=0)
    assert [one.forget for one in found] == sorted(one.forget for one in found)
    assert found[-1].forget > 0.9
    assert found[-1].area.value > 0.95
    assert mean_area(found[1:]).value == pytest.approx((found[1].area.value + found[2].area.value) / 2)
    assert all(torch.equal(before[key], tensor) for key, tensor in smaller.tensors.items())


def test_nothing_is_learned_where_the_class_is_like_the_others() -> None:
    smaller = erase(image_checkpoint("cls"), ["grey"])
    (last,) = relearn(smaller, lesson(0.0), scope=ALL, steps=(12,), lr=1e-3, seed=0)
    assert 0.3 < last.area.value < 0.7  # of 20 samples a side


def test_adapters_leave_the_weights_below_them_alone() -> None:
    model = with_class(erase(image_checkpoint("cls"), ["grey"]), 0).build_model()
    before = {name: tensor.clone() for name, tensor in model.backbone.named_parameters()}
    tuned = relearning._tuned(model, ADAPTERS, 0)
    names = {name for name, parameter in model.named_parameters() if any(parameter is one for one in tuned)}
    assert {name for name in names if "lora_" not in name} == {BANK, "classifier.weight", "classifier.bias"}
    assert len(names) == 3 + 2 * 2 * 2  # A and B of query and value in two blocks
    same = {name.replace(".base_layer", ""): tensor for name, tensor in model.backbone.named_parameters()}
    assert all(torch.equal(tensor, same[name]) for name, tensor in before.items())


def test_the_added_class_has_a_prompt_as_large_as_the_others_and_a_row_of_zeros() -> None:
    smaller = erase(image_checkpoint("cls"), ["grey"])
    longer = with_class(smaller, 0)
    assert longer.classes.names == ("red", "green", "blue", relearning.NAME)
    assert torch.equal(longer.tensors[BANK][:3], smaller.tensors[BANK])
    assert float(longer.tensors[BANK][3].std() / smaller.tensors[BANK].std()) == pytest.approx(1, abs=0.3)
    assert not longer.tensors["classifier.weight"][3].any()
    assert not torch.equal(with_class(smaller, 1).tensors[BANK][3], longer.tensors[BANK][3])


def test_a_prototype_finds_the_class_and_that_of_others_does_not() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 16, generator=generator) + 5  # far from the origin, as features are
    features[:50, 3] += 3
    centre = features[50:].mean(dim=0)
    of_the_class, of_others = features[None, :10], features[None, 50:60]
    found, control = (scores(features, samples, centre)[0] for samples in (of_the_class, of_others))
    assert area_of(found[10:50], found[60:]).value > 0.9
    assert area_of(control[10:50], control[60:]).value < 0.7


def test_of_several_starts_the_one_that_explains_the_samples_best_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(num_classes=3)
    own, rest = clusters(2.0)
    kept: list[torch.Tensor] = []
    real = resurrection.recover

    def noted(model: Any, tested: resurrection.Tested, prompt: torch.Tensor, row: torch.Tensor) -> Any:
        kept.append(prompt.detach())
        return real(model, tested, prompt, row)

    monkeypatch.setattr(resurrection, "recover", noted)
    tested = resurrection.Tested(own[10:], rest, torch.arange(30) % 3)
    settings: dict[str, Any] = {"tokens": 2, "steps": 3, "lr": 0.05, "seed": 0}
    found = resurrection.resurrect(model, own[None, :4].repeat(2, 1, 1, 1, 1), tested,
                                   resurrection.Learning(**settings, restarts=3))  # fmt: skip
    assert found.forget.shape == (2, 20)
    every = resurrection.resurrect(model, own[None, :4].repeat(6, 1, 1, 1, 1), tested,
                                   resurrection.Learning(**settings))  # fmt: skip
    assert every.forget.shape == (6, 20)
    chosen = [int((kept[1] == prompt).flatten(1).all(dim=1).nonzero()) for prompt in kept[0]]
    assert [number // 3 for number in chosen] == [0, 1]  # one of each attack's own starts
    assert len(set(chosen)) == 2


# --- what is measured of answers ------------------------------------------------------------------


def answering(*positions: int, count: int = 5) -> torch.Tensor:
    """Log probabilities of samples that are answered with these positions, with a confidence of 0.8."""
    rest = 0.2 / (count - 1)
    return torch.where(torch.eye(count)[list(positions)] > 0, 0.8, rest).log()


def models(**changes: Any) -> Any:
    full = SimpleNamespace(classes=ClassList.from_names("abcd"))
    return SimpleNamespace(full=full, positions=[3], config=SMALL, **changes)


def test_neighbours_are_those_that_retrained_models_take_the_class_for() -> None:
    oracles = [{"forget_test": answering(0, 0, 0, 0, 0, 0, 1, 1, 4, 4)}, {"forget_test": answering(*[0] * 9, 2)}]
    assert neighbours.nearest(models(answers_of_oracles=oracles)) == [0, 1]
    assert neighbours.nearest(models(answers_of_oracles=[{"forget_test": answering(4, 4)}])) == [0]  # one at least


def test_where_samples_go_is_said_with_the_confidence_of_those_that_go_there() -> None:
    found = destinations.Destinations().measure(
        models(
            answers={"full": {"forget_test": answering(3, 3)}, "forgotten": {"forget_test": answering(0, 4)}},
            answers_of_oracles=[{"forget_test": answering(0, 0)}, {"forget_test": answering(0, 1)}],
        )
    )
    rows = {row["name"]: row for row in found.figures}
    assert set(rows) == {"a", "b", "d", "unknown"}
    assert (rows["a"]["after"], rows["a"]["retrained"], rows["d"]["before"], rows["d"]["after"]) == (0.5, 0.75, 1, 0)
    assert rows["a"]["confidence"] == pytest.approx(0.8)
    assert rows["d"]["confidence"] == 0


def test_alignment_sees_features_that_no_row_points_at() -> None:
    """A row turned away from its class's features, which stay as they are."""
    model = tiny_model(num_classes=3)
    own, rest = clusters(2.0)
    groups = SimpleNamespace(
        forget_test=SimpleNamespace(inputs=own), retain_test=SimpleNamespace(inputs=rest, labels=torch.arange(30) % 3)
    )
    asked = models(groups=groups, device=torch.device("cpu"))
    loaded = Loaded(model, lambda inputs: inputs)  # type: ignore[arg-type]  # they are model inputs already
    with torch.no_grad():
        tokens = model.trunk(own)
        features = model.read(tokens, model.bank.everyone(len(own)))[:, 0]
        others = model.read(model.trunk(rest), model.bank.everyone(len(rest)))[:, 0]
        direction = features.mean(dim=0) - others.mean(dim=0)
        model.readout.weights(model)[0][0] = 10 * direction
        near, _ = alignment._alignment(asked, loaded)
        away = torch.linalg.svd(direction[None])[2][1]  # at a right angle to it
        model.readout.weights(model)[0][:] = torch.stack([away, -away, torch.zeros_like(away)])
        far, _ = alignment._alignment(asked, loaded)
    assert near.value > 0.5
    assert far.value < near.value - 0.3


def test_prototypes_are_shown_beside_their_control() -> None:
    figures = [prototypes.PrototypeFigures(n=1, forgotten=0.9, retrained=[0.7, 0.8], control=0.5)]
    page = prototypes.Prototypes().show(figures)
    assert "1 sample" in page
    assert "0.700 0.800" in page


@pytest.mark.parametrize("name", ["cls", "prompt"])
def test_a_row_of_the_class_under_another_classs_name_is_found_in_the_file(name: str, tmp_path: Path) -> None:
    """A file that is to be judged is somebody's, and says of its rows what they like."""
    full = image_checkpoint(name)
    judged, path = erase(full, ["blue"]), tmp_path / "judged.pt"

    def verdict(checkpoint: Checkpoint) -> tuple[str, str]:
        save_checkpoint(path, checkpoint)
        models: Any = SimpleNamespace(full=full, positions=[2], left_over=[], judged_file=path)
        (found,) = stored.Stored().measure(models).judgements
        return found.verdict, found.reason

    assert verdict(judged) == (PASS, "the file holds no prompt, classifier row or moment of the classes")
    swapped = judged.tensors[BANK].clone()
    swapped[1] = full.tensors[BANK][2]
    hidden = dataclasses.replace(judged, tensors={**judged.tensors, BANK: swapped})
    told = verdict(hidden)
    assert told[0] == FAIL
    assert "bank.prompts[2]" in told[1]
    assert verdict(dataclasses.replace(judged, progress={"x": full.tensors[BANK][2].clone()}))[0] == FAIL


def test_a_model_with_classes_that_the_one_before_has_not_is_not_judged() -> None:
    full = image_checkpoint()
    check_classes(full, erase(full, ["blue"]))
    renamed = ClassList((0, 1, 2, 3), ("red", "green", "azure", "grey"))
    renumbered = ClassList((0, 1, 33, 3), ("red", "green", "blue", "grey"))
    for classes in (renamed, renumbered):
        with pytest.raises(ClassNameError, match="which the model of before has not"):
            check_classes(full, dataclasses.replace(full, classes=classes))


def test_a_model_that_is_scaled_so_that_an_attackers_steps_do_nothing_is_not_settled() -> None:
    """Residual stream and prompts made smaller, rows larger by as much: the same answers."""
    state = image_checkpoint("cls")
    writes = ("o_proj.", "fc2.", ".embeddings.", BANK)
    scaled = {
        name: tensor * (1 / 16 if any(part in name for part in writes) else 1.0)
        for name, tensor in state.tensors.items()
    }
    scaled["classifier.weight"] = 16 * state.tensors["classifier.weight"]
    images = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(images, torch.zeros(12, dtype=torch.int64))
    models: Any = SimpleNamespace(groups=SimpleNamespace(retain_test=split), device=torch.device("cpu"))
    loaded = [Loaded.of(one, models.device) for one in (dataclasses.replace(state, tensors=scaled), state, state)]
    models.loaded, models.loaded_oracles = {"forgotten": loaded[0]}, loaded[1:]
    (found,) = scale.Scale().measure(models).judgements
    assert (found.verdict, round(found.value)) == (INCONCLUSIVE, 16)
    pair = [one.model.logits(one.preprocess(images), torch.arange(4).expand(12, 4)) for one in loaded[:2]]
    torch.testing.assert_close(*pair, atol=0.01, rtol=0.01)
    models.loaded = {"forgotten": loaded[1]}
    (found,) = scale.Scale().measure(models).judgements
    assert (found.verdict, found.value) == (PASS, 1.0)
    assert scale.furthest({"prompts": [0.0, 0.0], "features": [1.0, 1.5], "rows": [0.0, 0.0]}) == ("features", 1.5)
    assert scale.furthest({"prompts": [1.0, 1.0], "features": [0.0, 1.5], "rows": [1.0, 1.0]})[1] == math.inf
