"""What comes back of an erased class without its data: by formulas, where they must succeed and where they must not."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from making.audits import SMALL
from making.checkpoints import image_checkpoint
from making.commands import train_arguments
from making.images import write_npz
from making.models import tiny_spec
from pfm.audit.attacks.derivable import KEY, Derivable, judge
from pfm.audit.attacks.from_samples import FromSamples, Remade
from pfm.audit.by_chance import ByChance, compare_with_chance
from pfm.audit.derivable import Candidates, SeedStarts, Survivors, derive, find_seed, nearest, turned
from pfm.audit.derived import Back, Derived, IdeaBack, Key, Random, Way
from pfm.audit.models import AuditRequest, Models
from pfm.audit.verdict import FAIL, PASS, Judgement
from pfm.backbones.loading import build_backbone
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.classifier import BANK, PromptedClassifier
from pfm.model.starts import STARTS
from pfm.seeds import make_generator

CPU = torch.device("cpu")
GONE = 2


def started(start: str, seed: int, readout: str = "cls") -> Checkpoint:
    """A model whose rows moved a little from where a seed put them."""
    variant = image_checkpoint(readout)
    torch.manual_seed(seed)
    model = PromptedClassifier(build_backbone(tiny_spec(), seed=seed), variant.classes, variant.model, None)
    keys = [bytes([p]) * 32 for p in range(4)] if STARTS.get(start).takes_keys else []
    STARTS.get(start).apply(model, seed, keys)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: tensor.detach() + 0.05 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in model.trained_tensors().items()
    }
    return dataclasses.replace(variant, tensors=tensors, seed=seed, start=start, spec=tiny_spec())


def cosines(found: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    return torch.cosine_similarity(found.flatten(1), own.flatten()[None], dim=1)


@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_a_start_that_follows_from_the_seed_is_drawn_again(readout: str) -> None:
    full = started("seed", 7, readout)
    survivors = Survivors.of(erase(full, ["blue"]), GONE)
    starts = SeedStarts(full, survivors.ids)
    seed, match = find_seed(survivors, starts, range(10))
    assert (seed, match > 0.99) == (7, True)
    found = derive(survivors, {"the seed": starts.rows(seed, "seed")})
    assert float(cosines(found.prompt, full.tensors[BANK][GONE]).max()) > 0.99
    if readout == "cls":
        own = torch.cat([full.tensors["classifier.weight"][GONE], full.tensors["classifier.bias"][GONE, None]])
        assert float(cosines(found.row, own).max()) > 0.8  # rows are small beside what they moved here


@pytest.mark.parametrize(("start", "is_found"), [("seed", True), ("secret", False), ("common", False), ("data", False)])
def test_the_key_is_found_where_it_follows_and_what_all_prompts_share_is_not_a_key(start: str, is_found: bool) -> None:
    full = started(start, 7)
    survivors = Survivors.of(erase(full, ["blue"]), GONE)
    starts = SeedStarts(full, survivors.ids)
    found = derive(survivors, {name: starts.rows(7, name) for name in ("seed", "common")})
    way, cosine = nearest(found, survivors, full.tensors[BANK][GONE])
    assert (cosine > KEY) == is_found
    assert way.startswith("start from seed") or not is_found
    alike = dataclasses.replace(full, tensors={**full.tensors, BANK: full.tensors[BANK] + 9})  # all by the same
    survivors = Survivors.of(erase(alike, ["blue"]), GONE)
    assert nearest(derive(survivors, {}), survivors, alike.tensors[BANK][GONE])[1] < 0.2


@pytest.mark.parametrize("start", ["common", "secret", "data"])
def test_no_small_seed_and_no_formula_finds_another_start(start: str) -> None:
    full = started(start, 7)
    survivors = Survivors.of(erase(full, ["blue"]), GONE)
    starts = SeedStarts(full, survivors.ids)
    _, match = find_seed(survivors, starts, range(10))
    assert match < 0.4
    moved = full.tensors[BANK] - starts.rows(7, "common")[BANK]
    found = derive(survivors, {name: starts.rows(7, name) for name in ("seed", "common")})
    learned = (moved if start == "common" else full.tensors[BANK])[GONE]
    less = found.prompt - (starts.rows(7, "common")[BANK][GONE] if start == "common" else 0)
    assert float(cosines(less, learned).abs().max()) < 0.6  # of 32 numbers at random: below that but once in 1,000


def test_a_row_that_sums_to_zero_with_the_others_is_found_by_their_sum() -> None:
    full = started("common", 7)
    weight = full.tensors["classifier.weight"]
    full = dataclasses.replace(full, tensors={**full.tensors, "classifier.weight": weight - weight.mean(dim=0)})
    left = dataclasses.replace(
        full,
        classes=full.classes.without([GONE]),
        erased=((GONE, "blue"),),
        tensors={name: full.tensors[name][[0, 1, 3]] for name in (BANK, "classifier.weight", "classifier.bias")},
    )
    found = derive(Survivors.of(left, GONE), {})
    assert float(cosines(found.row[:, :-1], full.tensors["classifier.weight"][GONE]).max()) > 0.999


def test_moments_that_are_left_give_the_erased_one_away() -> None:
    full = started("common", 7)
    moment = torch.randn(4, 1, 32, generator=torch.Generator().manual_seed(1))
    moment -= moment.mean(dim=0)
    full = dataclasses.replace(full, moments={BANK: {"exp_avg": moment}})
    left = dataclasses.replace(erase(full, ["blue"]), moments={BANK: {"exp_avg": moment[[0, 1, 3]]}})
    found = derive(Survivors.of(left, GONE), {})
    assert float(cosines(found.prompt, moment[GONE]).max()) > 0.999
    without = derive(Survivors.of(dataclasses.replace(left, moments={}), GONE), {})
    assert float(cosines(without.prompt, moment[GONE]).abs().max()) < 0.6


def test_a_bank_is_attacked_as_its_checkpoint_is() -> None:
    smaller = erase(started("seed", 7), ["blue"])
    bank = {
        f"{kind}.{number}": smaller.tensors[name][position]
        for kind, name in (("prompt", BANK), ("weight", "classifier.weight"), ("bias", "classifier.bias"))
        for position, number in enumerate(smaller.classes.ids)
    }
    of_bank, of_file = Survivors.of_bank(bank, (0, 1, 2, 3), GONE), Survivors.of(smaller, GONE)
    assert (of_bank.ids, of_bank.kept, of_bank.gone) == (of_file.ids, of_file.kept, of_file.gone)
    starts = {"the seed": SeedStarts(smaller, of_file.ids).rows(7, "seed")}
    first, second = derive(of_bank, starts), derive(of_file, starts)
    assert first.names == second.names
    assert torch.equal(first.prompt, second.prompt)
    assert torch.equal(first.row, second.row)


def test_random_prompts_are_as_large_as_what_they_stand_for_and_as_much_like_each_other() -> None:
    survivors = Survivors.of(erase(started("seed", 7), ["blue"]), GONE)
    found = derive(survivors, {"the seed": SeedStarts(started("seed", 7), survivors.ids).rows(7, "seed")})
    drawn = turned(found, make_generator(0))
    for own, theirs in ((drawn.prompt, found.prompt), (drawn.row[:, :-1], found.row[:, :-1])):
        a, b = own.flatten(1), theirs.flatten(1)
        assert torch.allclose(a @ a.T, b @ b.T, atol=1e-3)  # sizes and angles
    assert torch.equal(drawn.row[:, -1], found.row[:, -1])
    assert len(torch.unique(drawn.prompt, dim=0)) == len(torch.unique(found.prompt, dim=0)) < len(found.names)
    several = torch.cat([turned(found, make_generator(number)).prompt for number in range(20)])
    assert abs(float(cosines(several, found.prompt[0]).mean())) < 0.2


def test_a_round_is_turned_in_any_direction() -> None:
    found = made_up(1, 3)
    size = float(found.prompt[0].norm())
    drawn = torch.stack([turned(found, make_generator(number)).prompt[0, 0] for number in range(400)]) / size
    spread = drawn.T @ drawn / len(drawn)  # of a direction in 8 numbers, each as likely: a eighth of unity
    assert torch.allclose(spread, torch.eye(8) / 8, atol=0.03)
    assert float(drawn.mean(dim=0).norm()) < 0.1


# --- what is compared with chance: nothing is trained here, an attack's success is drawn ------------------------------


def made_up(ideas: int, variants: int) -> Candidates:
    """Candidates of some ideas, each with so many variants."""
    names = tuple(f"idea {i}, variant {v}" for i in range(ideas) for v in range(variants))
    generator = torch.Generator().manual_seed(0)
    return Candidates(names, torch.randn(len(names), 1, 8, generator=generator), torch.zeros(len(names), 9))


def luck(seed: int) -> Callable[[Candidates], torch.Tensor]:
    """An attack that brings back something between 0 and 1, whatever it is given."""
    generator = torch.Generator().manual_seed(seed)
    return lambda drawn: torch.rand(len(drawn.names), generator=generator, dtype=torch.float64)


def compared(candidates: Candidates, selective: torch.Tensor, seed: int = 0) -> ByChance:
    return compare_with_chance(candidates, selective, luck(seed), rounds=20, generator=make_generator(seed))


def test_formulas_that_tell_nothing_are_found_to_tell_something_once_in_twenty_times_whatever_their_number() -> None:
    for ideas, variants in ((1, 1), (4, 5)):
        candidates = made_up(ideas, variants)
        wrong = 0
        for seed in range(100):
            attack = luck(1000 + seed)
            wrong += any(not idea["as_good"] for idea in compared(candidates, attack(candidates), seed).ideas)
        assert wrong <= 13, (ideas, variants)  # of 100, 5 expected: more than 13 in one of 2,000 trials


def test_the_best_of_many_is_not_compared_with_one_draw() -> None:
    candidates = made_up(4, 11)
    best_of_one = sum(float(luck(seed)(candidates).max()) > 0.975 for seed in range(100))
    assert best_of_one > 50  # what was judged before: the best of all, by the middle 95 % of single draws


def test_a_formula_far_outside_is_found_however_many_others_there_are() -> None:
    for ideas in (1, 4, 40):
        candidates = made_up(ideas, 3)
        selective = luck(5)(candidates) / 2
        selective[1] = 1.01
        found = {idea["idea"]: idea for idea in compared(candidates, selective).ideas}
        assert not found["idea 0"]["as_good"]
        assert found["idea 0"]["way"] == "idea 0, variant 1"
        assert found["idea 0"]["rounds"] == 20 * ideas - 1 or ideas == 1
        assert [name for name, idea in found.items() if not idea["as_good"]] == ["idea 0"]


def test_a_round_that_does_as_well_settles_an_idea_and_no_more_are_drawn() -> None:
    candidates = made_up(4, 3)
    found = compared(candidates, torch.full((12,), 0.2, dtype=torch.float64))
    assert found.rounds.shape == (20, 12)
    assert all(idea["rounds"] == 20 and idea["as_good"] for idea in found.ideas)
    assert torch.equal(found.best, found.rounds.max(dim=1).values)


def test_variants_of_a_formula_are_one_idea() -> None:
    survivors = Survivors.of(erase(started("seed", 7), ["blue"]), GONE)
    starts = SeedStarts(started("seed", 7), survivors.ids)
    found = derive(survivors, {"the seed": starts.rows(7, "seed")})
    assert sorted(found.ideas) == ["mean of the others", "minus the sum of the others", "start from the seed"]
    assert sorted(place for places in found.ideas.values() for place in places) == list(range(len(found.names)))


def test_centred_prompts_leave_nothing_for_their_sum_to_say() -> None:
    full = started("secret", 7, "prompt")
    found = {}
    for centre in (False, True):
        survivors = Survivors.of(erase(full, ["blue"], centre_prompts=centre), GONE)
        candidates = derive(survivors, {})
        found[centre] = float(candidates.prompt[candidates.names.index("minus the sum of the others")].norm())
    assert found[False] > 1
    assert found[True] < 1e-5


# --- on trained models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_npz(tmp_path_factory.mktemp("derived") / "colours.npz", train=160, test=120)


@pytest.fixture(autouse=True)
def _preset(preset: str) -> None:
    """The preset that the models were trained with."""


def measured(
    npz: Path, folder: Path, start: str, readout: str, *, centre_prompts: bool = False, more: Sequence[str] = ()
) -> tuple[Derived, Judgement, Judgement]:
    """What is derived of a class of a model that is trained once, and what is said of key and formulas."""
    options = ["--epochs", "12", "--lr", "0.005", "--batch_size", "16", "--eval_every", "0", "--save_every", "0"]
    options += more
    if not list(folder.glob("*.pt")):
        assert run(pfm, [*train_arguments(npz, folder), *options, "--readout", readout, "--prompt_start", start]) == 0
    (path,) = folder.glob("*.pt")
    full = load_checkpoint(path)
    request = AuditRequest(
        full=full, data=load_data(DataConfig(dataset=str(npz)), ImageStorage(8)), keys=["2"],
        judged=erase(full, ["2"], centre_prompts=centre_prompts),
    )  # fmt: skip
    found = Derivable().measure(Models(request, SMALL, folder / "models", CPU, say=lambda _: None))
    (figures,), (key, judgement) = found.figures, found.judgements
    assert key.measure == "the key is derivable: 2"
    assert len(figures["retrained"]) == SMALL.oracles
    assert "formula" in Derivable().show([figures])
    return figures, key, judgement


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_a_class_of_the_seeds_start_comes_back(npz: Path, tmp_path: Path, readout: str) -> None:
    figures, key, _ = measured(npz, tmp_path, "seed", readout)
    assert key.verdict == FAIL, key.reason
    assert measured(npz, tmp_path, "seed", readout, centre_prompts=True)[1].verdict == FAIL
    assert figures["full"]["selective"] > 0.9  # the control: it knew the class
    assert figures["seed_found"] == 42
    assert figures["seed_match"] > 0.9
    of_the_seed = [
        way for way in figures["formulas"] if way["way"].startswith("start from the seed start of the recor")
    ]
    assert of_the_seed[0]["selective"] > figures["full"]["selective"] - 0.1
    assert of_the_seed[0]["selective"] > figures["random"]["selective"] + 0.03  # on easy data many do


def figures_of(idea: IdeaBack, cosine: float, retrained: list[Way]) -> Derived:
    way = Way(way="a formula", selective=0.95, forget=0.9, retain=1.0)
    random = Random(rounds=24, draws=216, selective=0.5, forget=0.1, best=0.7, low=0.6, high=0.9)
    return Derived(
        name="3", start="seed", seed_found=42, seed_match=0.99, key=Key(way="a", cosine=cosine),
        full=Back(selective=0.98, forget=0.98, retain=0.98), random=random, formulas=[way], ideas=[idea],
        retrained=retrained, learned={},
    )  # fmt: skip


TELLS = IdeaBack(
    idea="a", way="a formula", selective=0.95, num_ways=3, rounds=79, as_good=0, best_random=0.9
)  # fmt: skip


def test_a_formula_is_judged_by_as_many_random_prompts() -> None:
    key, found = judge(figures_of(TELLS, 0.99, []))
    assert (key.level, key.measure, key.verdict) == ("erase", "the key is derivable: 3", FAIL)
    assert (found.level, found.measure, found.verdict) == ("erase", "derivable: 3", FAIL)
    assert found.value == pytest.approx(0.05)
    assert "brings back 0.950, none of 79 rounds of random prompts in its place as much (at most 0.900)" in found.reason
    passed = list(judge(figures_of({**TELLS, "as_good": 2, "rounds": 24, "best_random": 0.96}, 0.3, [])))
    assert [entry.verdict for entry in passed] == [PASS, PASS]
    assert "of 24 rounds of random prompts in its place 2 as much or more" in passed[1].reason


def test_what_formulas_bring_back_in_models_that_never_saw_the_class_stands_beside_it() -> None:
    way, small = Way(way="a", selective=0.95, forget=0.9, retain=1.0), Way(way="b", selective=0.7, forget=0.5, retain=1)
    _, found = judge(figures_of({**TELLS, "as_good": 1}, 0.1, [small, way]))
    assert found.verdict == PASS
    assert found.reason.endswith("; the best in models that never saw the class: 0.700, 0.950")


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "prompt"])
@pytest.mark.parametrize("start", ["common", "secret", "data"])
def test_a_class_of_another_start_comes_back_no_better_than_by_chance(
    npz: Path, tmp_path: Path, readout: str, start: str
) -> None:
    figures, key, judgement = measured(npz, tmp_path, start, readout)
    assert figures["full"]["selective"] > 0.85
    assert figures["random"]["rounds"] >= 20
    assert set(figures["learned"]) == {"noise", "inputs that the model is least sure about"}
    if (start, readout) == ("common", "prompt"):  # what so few prompts learned from one vector sums to little
        assert 0.3 < key.value < 0.8
        assert judgement.verdict == FAIL
        figures, key, judgement = measured(npz, tmp_path, start, readout, centre_prompts=True)
    assert key.verdict == PASS, key.reason
    assert judgement.verdict == PASS, judgement.reason


@pytest.mark.slow
def test_with_decoys_neither_a_formula_nor_a_random_prompt_brings_the_class_back(npz: Path, tmp_path: Path) -> None:
    found = {}
    for decoys in ("0", "3"):
        more = ["--wrong_target", "none", "--final_norm", "--decoys", decoys, "--epochs", "30"]
        more += ["--schedule", "cosine", "--max_grad_norm", "1"]
        found[decoys], key, _ = measured(npz, tmp_path / decoys, "data", "prompt", more=more)
        assert key.verdict == PASS, key.reason
        assert found[decoys]["full"]["selective"] > 0.85
    best = {decoys: figures["formulas"][0]["selective"] for decoys, figures in found.items()}
    assert best["3"] < 0.6 < best["0"]  # 0.5 where nothing comes back
    assert found["3"]["random"]["high"] < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_who_has_the_training_samples_makes_the_start_again_and_that_is_said_beside_resurrection(
    npz: Path, tmp_path: Path, readout: str
) -> None:
    measured(npz, tmp_path, "data", readout)
    (path,) = tmp_path.glob("*.pt")
    full, data = load_checkpoint(path), load_data(DataConfig(dataset=str(npz)), ImageStorage(8))

    def found(data: ClassificationData) -> tuple[Remade, Judgement]:
        request = AuditRequest(full=full, data=data, keys=["2"])
        result = FromSamples().measure(Models(request, SMALL, tmp_path / "models", CPU, say=lambda _: None))
        (figures,), (judgement,) = result.figures, result.judgements
        assert "Made again from the training samples" in FromSamples().show([figures])
        return figures, judgement

    figures, judgement = found(data)
    assert (judgement.level, judgement.measure) == ("scrub", "made again from its training samples: 2")
    assert figures["cosine"] > 0.9
    assert figures["forgotten"]["selective"] > figures["full"]["selective"] - 0.1
    assert figures["forgotten"]["selective"] > max(back["selective"] for back in figures["retrained"])
    assert figures["samples"] == 40
    other = data.train.inputs.clone()
    other[data.train.labels == GONE] ^= 1  # what he has of the class is not quite what was trained on
    figures, judgement = found(dataclasses.replace(data, train=dataclasses.replace(data.train, inputs=other)))
    assert figures["cosine"] < KEY
    assert "has cosine" in judgement.reason
