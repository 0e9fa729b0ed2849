"""The measures of the field: MedMNIST's own evaluator, scikit-learn's, and one sample at a time."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from making.images import coloured_images
from making.models import NAMES, tiny_model
from pfm.data.images import ImagePreprocess, from_arrays
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.errors import ConfigError
from pfm.evaluation.advice import advise
from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.intervals import Ranking, weighted_precision_recall
from pfm.evaluation.measures import measure_calibration, measure_field, medmnist_accuracy, medmnist_auc
from pfm.evaluation.measures_report import _answers, describe_measures, write_measures
from pfm.evaluation.outcome import Evaluation, UnknownShares
from pfm.evaluation.removal import Destinations, measure_removal
from pfm.evaluation.results import describe_evaluation, not_forgotten
from pfm.evaluation.samples import Samples
from pfm.evaluation.served import ServedAnswers
from pfm.evaluation.subsets import SubsetAccuracies, choose_subsets

PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
CPU = torch.device("cpu")


def random_served(count: int = 200, num_classes: int = 4, *, unknown: bool = False, seed: int = 0) -> ServedAnswers:
    """Answers that are better than chance, with ties among the probabilities."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, count)
    logits = random.normal(size=(count, num_classes + unknown)) + 1.5 * np.eye(num_classes + unknown)[labels]
    logits = logits.round(1)  # some are equal
    whole = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = np.where(whole.argmax(axis=1) == num_classes, -1, whole.argmax(axis=1))
    without = logits.copy()
    without[np.arange(count), labels] = -np.inf
    rest = np.exp(without) / np.exp(without).sum(axis=1, keepdims=True)
    after = np.where(rest.argmax(axis=1) == num_classes, -1, rest.argmax(axis=1))
    return ServedAnswers(
        labels=torch.from_numpy(labels), probabilities=torch.from_numpy(whole[:, :num_classes]),
        answers=torch.from_numpy(answers), without_own=torch.from_numpy(after),
        sureness=torch.from_numpy(whole.max(axis=1)), sureness_without_own=torch.from_numpy(rest.max(axis=1)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "num_classes"), [("bloodmnist", 8), ("retinamnist", 5), ("breastmnist", 2)], ids=str
)  # of its tasks multi-class, ordinal-regression and binary-class
@pytest.mark.parametrize("unknown", [False, True])
def test_auc_and_accuracy_are_those_of_medmnists_evaluator(
    tmp_path: Path, flag: str, num_classes: int, unknown: bool
) -> None:
    import medmnist

    served = random_served(150, num_classes, unknown=unknown, seed=num_classes)
    labels = served.labels.numpy()[:, None].astype(np.uint8)
    np.savez(tmp_path / f"{flag}.npz", test_labels=labels)
    theirs = medmnist.Evaluator(flag, "test", root=str(tmp_path)).evaluate(served.probabilities.numpy())
    assert medmnist.INFO[flag]["task"] in ("multi-class", "ordinal-regression", "binary-class")
    ours = measure_field(served, [str(i) for i in range(num_classes)])
    assert ours.auc == pytest.approx(theirs.AUC, abs=1e-9)
    assert ours.accuracy == pytest.approx(theirs.ACC, abs=1e-9)


@pytest.mark.parametrize("unknown", [False, True])
def test_the_other_measures_agree_with_one_sample_at_a_time(unknown: bool) -> None:
    served = random_served(unknown=unknown)
    found = measure_field(served, NAMES)
    labels, answers = served.labels.tolist(), served.answers.tolist()
    recalls, f1 = [], []
    for i, entry in enumerate(found.classes):
        right = sum(y == i == a for y, a in zip(labels, answers, strict=True))
        recalls.append(right / labels.count(i))
        f1.append(2 * right / (labels.count(i) + answers.count(i)))
        assert entry.support == labels.count(i)
        assert entry.recall == pytest.approx(recalls[-1])
        assert entry.precision == pytest.approx(right / answers.count(i))
        for j in range(4):
            assert found.confusion[i][j] == sum(y == i and a == j for y, a in zip(labels, answers, strict=True))
        assert found.confusion[i][4] == sum(y == i and a == -1 for y, a in zip(labels, answers, strict=True))
    assert found.balanced_accuracy == pytest.approx(np.mean(recalls))
    assert found.macro_f1 == pytest.approx(np.mean(f1))
    assert (found.confusion[0][4] + found.confusion[1][4] > 0) == unknown


def test_the_calibration_error_is_that_of_its_definition() -> None:
    served = random_served(500, unknown=True)
    probabilities, labels = served.probabilities.numpy(), served.labels.numpy()
    found = measure_calibration(labels, probabilities)
    error = 0.0
    for low in range(15):
        rows = [i for i in range(500) if low / 15 < probabilities[i].max() <= (low + 1) / 15]
        right = [probabilities[i].argmax() == labels[i] for i in rows]
        error += abs(sum(right) - sum(probabilities[i].max() for i in rows)) / 500
    assert found.ece == pytest.approx(error)
    assert sum(found.count) == 500


def test_weighted_measures_are_scikit_learns() -> None:
    from sklearn.metrics import precision_score, recall_score, roc_auc_score

    served, random = random_served(unknown=True), np.random.default_rng(1)
    labels, answers = served.labels.numpy(), served.answers.numpy()
    for _ in range(5):
        weights = random.multinomial(len(labels), np.full(len(labels), 1 / len(labels))).astype(float)
        both = weighted_precision_recall(labels, answers, weights, 4)
        options: dict[str, Any] = {"labels": [0, 1, 2, 3], "average": None, "sample_weight": weights}
        np.testing.assert_allclose(both[:, 0], precision_score(labels, answers, **options))
        np.testing.assert_allclose(both[:, 1], recall_score(labels, answers, **options))
        for i in range(4):
            scores = served.probabilities.numpy()[:, i]
            ours = Ranking.of(labels == i, scores).weighted_auc(weights)
            assert ours == pytest.approx(roc_auc_score(labels == i, scores, sample_weight=weights), abs=1e-12)


def test_intervals_hold_the_value_are_seeded_and_are_wider_over_groups() -> None:
    served = random_served()
    patients = [f"patient {i // 20}" for i in range(200)]
    # the samples of a patient are alike: right together or wrong together
    alike = served.labels.clone()
    wrong = torch.tensor([(i // 20) % 3 == 0 for i in range(200)])
    served = dataclasses.replace(served, answers=torch.where(wrong, (alike + 1) % 4, alike))
    over_samples, again, over_groups = (
        measure_field(served, NAMES, groups=groups, num_resamples=200, seed=3) for groups in (None, None, patients)
    )
    assert over_samples == again
    assert over_samples.resampling is not None
    assert over_groups.resampling is not None
    assert (over_samples.resampling.unit, over_samples.resampling.num_units) == ("sample", 200)
    assert (over_groups.resampling.unit, over_groups.resampling.num_units) == ("group", 10)
    widths = []
    for found in (over_samples, over_groups):
        for entry in found.classes:
            for value, interval in (
                (entry.precision, entry.precision_interval),
                (entry.recall, entry.recall_interval),
                (entry.auc, entry.auc_interval),
            ):
                assert value is not None
                assert interval is not None
                assert interval[0] <= value <= interval[1]
        widths.append(sum(entry.recall_interval[1] - entry.recall_interval[0] for entry in found.classes))  # type: ignore[index]
    assert widths[1] > 1.3 * widths[0]
    one_group = measure_field(served, NAMES, groups=["one"] * 200, num_resamples=200)
    assert one_group.resampling is None
    assert one_group.classes[0].auc_interval is None


def test_a_class_without_test_samples_is_in_no_mean_and_is_named() -> None:
    served = random_served()
    labels = torch.where(served.labels == 2, -1, served.labels)  # erased, or never there
    found = measure_field(dataclasses.replace(served, labels=labels), NAMES, num_resamples=100)
    assert found.left_out == ["blue"]
    assert found.num_samples == int((labels >= 0).sum())
    assert (found.classes[2].auc, found.classes[2].recall) == (None, None)
    known = [entry.recall for entry in found.classes if entry.recall is not None]
    assert found.balanced_accuracy == pytest.approx(np.mean(known))
    removal = measure_removal(dataclasses.replace(served, labels=labels), NAMES)
    assert removal.left_out == ["blue"]
    assert [entry.name for entry in removal.classes] == ["red", "green", "grey"]
    assert "no test samples, so in no mean: blue" in describe_measures(found, removal)


def make_split(count: int = 23) -> Split:
    images, labels = coloured_images(count)
    return Split(from_arrays(images, "test"), torch.from_numpy(labels[:, 0].astype("int64")))


@pytest.mark.parametrize("variant", [{"readout": "cls"}, {"readout": "prompt", "wrong_target": "none"}], ids=str)
@torch.no_grad()
def test_answers_are_those_of_a_model_that_never_gives_what_is_removed(variant: dict[str, Any]) -> None:
    model, split = tiny_model(**variant), make_split()
    evaluator = Evaluator(
        Samples.of(split, torch.arange(4), PREPROCESS, CPU), Processes(device=CPU), batch_size=5, seed=1
    )
    measured = evaluator.evaluate(model, ks=[2], with_answers=True)
    served = measured.served
    assert served is not None
    full = float((served.answers == served.labels).double().mean())
    assert full == pytest.approx(measured.modes["full_bank"])
    for row, label in enumerate(split.labels.tolist()):
        kept = [c for c in range(4) if c != label]
        logits = model.logits(PREPROCESS(split.inputs[row : row + 1]), torch.tensor([kept]))[0, kept].double()
        whole = torch.cat([logits, torch.tensor([model.unknown_logit], dtype=torch.float64)]).softmax(dim=0)
        best = int(whole.argmax())
        assert served.without_own[row] == (kept[best] if best < 3 else -1)
        assert float(served.sureness_without_own[row]) == pytest.approx(float(whole.max()), abs=1e-6)


def test_processes_gather_the_answers_of_all() -> None:
    model, split = tiny_model(), make_split()

    def answers(**processes: Any) -> ServedAnswers:
        where = Processes(device=CPU, **processes)
        evaluator = Evaluator(Samples.of(split, torch.arange(4), PREPROCESS, CPU), where, batch_size=5, seed=1)
        found = evaluator.evaluate(model, with_answers=True).served
        assert found is not None
        return found

    alone = answers()
    parts = [answers(rank=rank, world_size=2) for rank in range(2)]  # each reduces with zeros for the other here
    torch.testing.assert_close(parts[0].probabilities + parts[1].probabilities, alone.probabilities)
    assert torch.equal(parts[0].without_own + parts[1].without_own, alone.without_own)


def test_where_the_samples_of_a_removed_class_go() -> None:
    served = random_served(unknown=True)
    found = measure_removal(served, NAMES)
    for position, entry in enumerate(found.classes):
        own = served.labels == position
        assert entry.name not in entry.answers_after
        assert sum(entry.answers_after.values()) == pytest.approx(1)
        assert list(entry.answers_after.values()) == sorted(entry.answers_after.values(), reverse=True)
        unknown = float((served.without_own[own] == -1).double().mean())
        assert entry.answers_after.get("unknown", 0) == pytest.approx(unknown)
        assert entry.sureness_after == pytest.approx(float(served.sureness_without_own[own].mean()))
        assert entry.sure_before >= entry.sure_after


def test_the_files_of_the_measures_hold_them(tmp_path: Path) -> None:
    served = random_served(unknown=True)
    names = ["<b>red</b>", "a name that is much too long for a picture", "blue", "grey"]
    field, removal = measure_field(served, names, num_resamples=100), measure_removal(served, names)
    written = write_measures(tmp_path / "run", field, removal, title="<i>run</i>")
    assert {path.name.removeprefix("run_") for path in written} == {
        "measures.json", "confusion.png", "reliability.png", "removed.png", "measures.html"
    }  # fmt: skip
    document = json.loads((tmp_path / "run_measures.json").read_text())
    assert document["measures"]["auc"] == field.auc
    assert document["removal"]["classes"][3]["name"] == "grey"
    page = (tmp_path / "run_measures.html").read_text()
    assert "<b>" not in page
    assert "<i>" not in page
    assert page.count("data:image/png;base64,") == 3


def test_many_subsets_are_drawn_and_never_listed() -> None:
    for num_classes, k in ((40, 20), (1000, 500), (20, 10)):
        found = choose_subsets(num_classes, k, 50, seed=1)
        assert len(set(found)) == 50
        assert all(len(set(subset)) == k for subset in found)
        assert found == choose_subsets(num_classes, k, 50, seed=1)
    with pytest.raises(ConfigError, match=r"1\.4e11 subsets of 20 of 40 classes"):
        choose_subsets(40, 20, None, seed=1)
    assert len(choose_subsets(11, 5, 500, seed=1)) == 462  # of all MedMNIST sets, all of them


def evaluation(full_bank: float, *, unknown: float | None = None, largest: float = 0.25) -> Evaluation:
    shares = None if unknown is None else UnknownShares(class_present=unknown, class_removed=0.9)
    return Evaluation(modes={"full_bank": full_bank}, unknown=shares, largest_class=largest)


def test_advice_is_given_where_a_model_did_not_learn_and_nowhere_else() -> None:
    model = tiny_model()
    assert advise(evaluation(0.9, unknown=0.05), model) == []
    assert advise(evaluation(0.5), model) == []
    (line,) = advise(evaluation(0.089, unknown=0.83), model)
    assert "answers `unknown` for 83 %" in line
    assert "--epochs" in line
    (line,) = advise(evaluation(0.27), model)
    assert "accuracy is 27.0 %, where one answer for all has 25.0 %" in line
    assert "image" not in line  # the model may be one of sounds
    (line,) = advise(evaluation(0.72, largest=0.7), model)  # of a skewed test set
    assert "has 70.0 %" in line


def test_classes_that_are_answered_without_their_prompt_are_named_the_worst_first() -> None:
    model = tiny_model()
    subsets = [(position,) for position in range(4)]
    one = SubsetAccuracies(k=1, subsets=subsets, forget=[0.3, 0.72, math.nan, 0.951], retain=[0.9] * 4, num_possible=4)
    measured = dataclasses.replace(evaluation(0.9), subsets=[one])
    (line,) = not_forgotten(measured, model)
    assert "away: grey in 95.1 %, green in 72.0 % of their samples (chance 25.0 %)" in line
    assert line in describe_evaluation(measured, model)
    assert not_forgotten(evaluation(0.9), model) == []
    well = dataclasses.replace(one, forget=[0.3, 0.1, 0.0, 0.44])
    assert not_forgotten(dataclasses.replace(measured, subsets=[well]), model) == []


def test_measures_of_two_classes_are_of_the_second() -> None:
    served = random_served(num_classes=2)
    labels, probabilities = served.labels.numpy(), served.probabilities.numpy()
    assert medmnist_accuracy(labels, probabilities) == pytest.approx(
        float(((probabilities[:, 1] > 0.5) == labels).mean())
    )
    assert medmnist_auc(np.zeros(5, int), np.full((5, 2), 0.5)) is None


def test_a_share_is_not_read_as_part_of_a_class_that_is_a_number() -> None:
    entry = Destinations(
        name="0", num_samples=3, answers_before={"0": 1.0}, answers_after={"1": 2 / 3, "unknown": 1 / 3},
        sureness_before=0.5, sureness_after=0.5, sure_before=0.0, sure_after=0.0,
    )  # fmt: skip
    assert _answers(entry) == "1: 67 %, unknown: 33 %"
