"""The table of answers against one sample, one mode, one subset at a time."""

import itertools
import statistics
from typing import Any

import pytest
import torch

from making.images import coloured_images
from making.models import NAMES, tiny_model
from pfm.classes import ClassList
from pfm.data.images import ImagePreprocess, from_arrays
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.errors import DataError
from pfm.evaluation.evaluator import Evaluator
from pfm.evaluation.samples import Samples, label_positions
from pfm.evaluation.subsets import forget_sizes
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import MODES
from pfm.seeds import make_generator

PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
VARIANTS = [{"readout": "cls"}, {"readout": "prompt"}, {"readout": "prompt", "wrong_target": "none"}]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def make_split(count: int = 23) -> Split:
    images, labels = coloured_images(count)
    return Split(from_arrays(images, "test"), torch.from_numpy(labels[:, 0].astype("int64")))


def make_evaluator(
    split: Split, positions: torch.Tensor | None = None, *, batch_size: int = 5, seed: int = 1, **processes: Any
) -> Evaluator:
    cpu = torch.device("cpu")
    samples = Samples.of(split, torch.arange(4) if positions is None else positions, PREPROCESS, cpu)
    return Evaluator(samples, Processes(device=cpu, **processes), batch_size=batch_size, seed=seed)


def answer(model: PromptedClassifier, image: torch.Tensor, seen: list[int]) -> int:
    """The class that wins for one image, -1 for none."""
    logits = model.logits(PREPROCESS(image[None]), torch.tensor([seen], dtype=torch.int64))[0].tolist()
    best = max(range(len(logits)), key=lambda c: logits[c])
    if logits[best] <= model.unknown_logit:
        return -1
    return best


@variants
@torch.no_grad()
def test_the_modes_without_chance_agree_with_one_sample_at_a_time(variant: dict[str, str]) -> None:
    model, split = tiny_model(**variant), make_split()  # type: ignore[arg-type]
    everything = list(range(4))

    def accuracy(choose: Any) -> float:
        right = [answer(model, x, choose(y)) == y for x, y in zip(split.inputs, split.labels.tolist(), strict=True)]
        return statistics.fmean(right)

    modes = make_evaluator(split).evaluate(model).modes
    expected = {
        "full_bank": accuracy(lambda _: everything),
        "match_only": accuracy(lambda y: [y]),
        "all_wrong": accuracy(lambda y: [c for c in everything if c != y]),
        "none": accuracy(lambda _: []),
        **{f"class_{i}": accuracy(lambda _, i=i: [i]) for i in everything},
    }
    assert {name: modes[name] for name in expected} == pytest.approx(expected)
    assert modes["full_bank_shuffle"] == modes["full_bank"]
    assert set(modes) == {*MODES, *(f"class_{i}" for i in everything), "infer_best"}


@variants
@torch.no_grad()
def test_infer_best_takes_the_largest_logit_of_each_class_over_the_one_prompt_forwards(variant: dict[str, str]) -> None:
    model, split = tiny_model(**variant), make_split()  # type: ignore[arg-type]
    right = 0
    for image, label in zip(split.inputs, split.labels.tolist(), strict=True):
        forwards = [model.logits(PREPROCESS(image[None]), torch.tensor([[i]]))[0] for i in range(4)]
        scores = [max(float(logits[c]) for logits in forwards) for c in range(4)]
        best = max(range(4), key=lambda c: scores[c])
        right += best == label and scores[best] > model.unknown_logit
    assert make_evaluator(split).evaluate(model).modes["infer_best"] == pytest.approx(right / len(split))


@torch.no_grad()
def test_the_drawn_modes_agree_with_their_draws() -> None:
    model, split = tiny_model(), make_split()
    modes = make_evaluator(split, batch_size=len(split)).evaluate(model).modes
    for name in ("mixed_subset", "wrong_subset"):
        present = MODES[name](split.labels, 4, make_generator(1, name, 0, 0)).tolist()
        right = [
            answer(model, x, row) == y for x, row, y in zip(split.inputs, present, split.labels.tolist(), strict=True)
        ]
        assert modes[name] == pytest.approx(statistics.fmean(right))
    wrong = MODES["random_wrong"](split.labels, 4, make_generator(1, "random_wrong", 0)).tolist()
    right = [answer(model, x, row) == y for x, row, y in zip(split.inputs, wrong, split.labels.tolist(), strict=True)]
    assert modes["random_wrong"] == pytest.approx(statistics.fmean(right))


@variants
@torch.no_grad()
def test_forget_and_retain_accuracy_agree_with_one_subset_at_a_time(variant: dict[str, str]) -> None:
    model, split = tiny_model(**variant), make_split()  # type: ignore[arg-type]
    result = make_evaluator(split).evaluate(model, ks=[1, 2, 3])
    for entry in result.subsets:
        assert entry.subsets == list(itertools.combinations(range(4), entry.k))
        for removed, forget, retain in zip(entry.subsets, entry.forget, entry.retain, strict=True):
            seen = [c for c in range(4) if c not in removed]
            right = {True: [], False: []}
            for image, label in zip(split.inputs, split.labels.tolist(), strict=True):
                right[label in removed].append(answer(model, image, seen) == label)
            assert forget == pytest.approx(statistics.fmean(right[True]))
            assert retain == pytest.approx(statistics.fmean(right[False]))
        row = result.inference_accuracies()[str(entry.k)]
        assert row["forget_mean"] == pytest.approx(statistics.fmean(entry.forget))
        assert row["retain_std"] == pytest.approx(statistics.pstdev(entry.retain))


def test_no_active_set_is_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model, split = tiny_model(), make_split(5)
    runs: list[tuple[int, ...]] = []
    head = PromptedClassifier.head

    def counting(self: PromptedClassifier, tokens: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        if (present == present[:1]).all():
            runs.append(tuple(present[0].tolist()))
        return head(self, tokens, present)

    monkeypatch.setattr(PromptedClassifier, "head", counting)
    make_evaluator(split).evaluate(model, ks=forget_sizes(4))
    assert len(runs) == len(set(runs))
    # all, none, 4 single ones (also k = 3), 4 that leave one out (also k = 1), 6 of k = 2
    assert len(set(runs)) == 16


def test_sampled_subsets_are_distinct_seeded_and_announced() -> None:
    model, split = tiny_model(), make_split(8)
    first, again = (make_evaluator(split).evaluate(model, ks=[2], max_subsets=4).subsets[0] for _ in range(2))
    assert first.subsets == again.subsets
    assert len(set(first.subsets)) == 4
    assert first.num_possible == 6
    others = [make_evaluator(split, seed=s).evaluate(model, ks=[2], max_subsets=4).subsets[0] for s in range(2, 7)]
    assert any(other.subsets != first.subsets for other in others)


@variants
def test_processes_that_share_the_samples_count_each_once(variant: dict[str, str]) -> None:
    model, split = tiny_model(**variant), make_split(23)  # type: ignore[arg-type]
    # every process counts its own share; the sum over processes is taken by hand here
    recorded: list[list[torch.Tensor]] = []
    for rank in range(3):
        counts: list[torch.Tensor] = []

        def keep(tensor: torch.Tensor, into: list[torch.Tensor] = counts) -> torch.Tensor:
            into.append(tensor.clone())
            return tensor

        make_evaluator(split, rank=rank, world_size=3, reduce=keep).evaluate(model, ks=[1, 2])
        recorded.append(counts)
    sums = [sum(parts) for parts in zip(*recorded, strict=True)]
    replay = iter(sums)
    shared = make_evaluator(split, rank=0, world_size=3, reduce=lambda _: next(replay)).evaluate(model, ks=[1, 2])  # type: ignore[arg-type, return-value]
    alone = make_evaluator(split).evaluate(model, ks=[1, 2])
    deterministic = [name for name in alone.modes if name not in ("mixed_subset", "wrong_subset", "random_wrong")]
    assert {n: shared.modes[n] for n in deterministic} == {n: alone.modes[n] for n in deterministic}
    assert [e.forget for e in shared.subsets] == [e.forget for e in alone.subsets]
    assert [e.retain for e in shared.subsets] == [e.retain for e in alone.subsets]


def test_samples_of_an_erased_class_count_on_no_side() -> None:
    model = tiny_model(num_classes=3)  # red, green, blue; the data also has grey, which was erased
    split = make_split(20)
    positions = label_positions(model.classes, ClassList.from_names(NAMES), erased=[(3, "grey")])
    assert positions.tolist() == [0, 1, 2, -1]
    with_grey = make_evaluator(split, positions).evaluate(model, ks=[1])
    without = make_evaluator(split.subset(split.labels != 3), positions).evaluate(model, ks=[1])
    assert with_grey.modes["full_bank"] == without.modes["full_bank"]
    assert with_grey.subsets[0].retain == without.subsets[0].retain


def test_classes_are_matched_by_name_then_by_number() -> None:
    model = ClassList((0, 2), ("cat", "dog"))
    assert label_positions(model, ClassList.from_names(["bird", "cat", "dog"]), [(1, "bird")]).tolist() == [-1, 0, 1]
    assert label_positions(model, ClassList.from_names(["x", "y", "z"]), [(1, "bird")]).tolist() == [0, -1, 1]
    with pytest.raises(DataError, match="not the model's"):
        label_positions(model, ClassList.from_names(["cat", "dog"]), [(1, "bird")])


def test_the_papers_sizes_of_forget_sets() -> None:
    assert [forget_sizes(n) for n in (2, 3, 4, 8, 11)] == [[1], [1, 2], [1, 2, 3], [1, 4, 7], [1, 5, 10]]
