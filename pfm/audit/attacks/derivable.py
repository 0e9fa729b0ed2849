"""Derivable: what of an erased class comes back from what is left plus what everybody knows, without data of the class.

By known formulas (`pfm.audit.derivable`), which are judged in two ways. None of them is to give the class's own prompt,
its key: where rows drawn at random bring back much, that alone tells. And none is to bring back more than as many
prompts drawn at random do (`pfm.audit.by_chance`); beside it stands what the best brings back in models that never saw
the class. There is one that beats random prompts in both: what stands against all prompts that are left gets whatever
nobody else claims. It is gone where the prompts that are left were centred.

And by a prompt that is learned on inputs that the attacker made up, which is only reported: no erasure of rows touches
what the shared weights know.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.by_chance import ByChance, compare_with_chance
from pfm.audit.config import AuditConfig
from pfm.audit.derivable import Candidates, Rows, SeedStarts, Survivors, derive, find_seed, nearest
from pfm.audit.derived import Back, ByFormula, Derived, IdeaBack, Key, Random, Way
from pfm.audit.figures import interval
from pfm.audit.groups import Groups
from pfm.audit.made_up import learn_without_data
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.resurrection import Recovery, Tested, recover
from pfm.audit.subject import Loaded
from pfm.audit.verdict import FAIL, PASS, Judgement, at_most, by_number
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK, PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.starts import STARTS
from pfm.seeds import make_generator

KEY = 0.5  # cosine from which a formula's prompt is said to be the class's own
MOST_SAMPLES = 100  # of the class, and of the others, that formulas and random prompts are tried on
MATCH = 0.3  # cosine from which the surviving prompts are said to follow from a seed; of chance it is about 1/√D


class Derivable:
    """Judges the formulas by the key and beside random prompts; reports them elsewhere, and what is learned."""

    name = "derivable"
    about = "the file and its seed, and no sample of the class"

    def measure(self, models: Models) -> Measurement[list[Derived]]:
        found = [
            measure_class(
                Case(
                    full=models.full, forgotten=models.forgotten, groups=models.groups, position=position,
                    device=models.device, config=models.config,
                    retrained=tuple(oracle.checkpoint for oracle in models.oracles),
                )
            )
            for position in models.positions
        ]  # fmt: skip
        return Measurement(found, tuple(said for entry in found for said in judge(entry)))

    def show(self, figures: list[Derived]) -> str:
        parts = ["<h2>Derivable</h2>"
                 "<p>What brings the class back without a sample of it: the best known formulas over what is left in "
                 "the file and its seed, and prompts learned on inputs that were made up.</p>"]  # fmt: skip
        for entry in figures:
            parts.append(f"<p>{_said_of_key(entry['key'])}</p>")
            rows = [_line("the class's own prompt", entry["full"])]
            rows += [_line(f"formula: {way['way']}", way) for way in entry["formulas"][:3]]
            rows += [
                _line(f"the best formula in a model that never saw it: {way['way']}", way) for way in entry["retrained"]
            ]
            rows += [_line(f"learned on {how}", back) for how, back in entry["learned"].items()]
            random = entry["random"]
            rows.append([f"{random['draws']} prompts drawn at random", f"{random['forget']:.3f}", "",
                         f"{random['selective']:.3f}"])  # fmt: skip
            rows.append([f"the best of as many as there are formulas, {random['rounds']} times", "", "",
                         f"{random['best']:.3f} ({random['low']:.3f} to {random['high']:.3f})"])  # fmt: skip
            parts.append(table(["", "class", "others", "mean"], rows))
        return "".join(parts)


def _said_of_key(key: Key) -> str:
    return f"the formula that comes closest to the class's own prompt ({key['way']}): cosine {key['cosine']:.2f}"


def _line(what: str, back: Back | Way) -> list[str]:
    return [what, f"{back['forget']:.3f}", f"{back['retain']:.3f}", f"{back['selective']:.3f}"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One class that was erased.

    Attributes:
        full, forgotten: before and after.
        groups: samples; labels are positions in the full model's bank.
        position: of the class there.
        retrained: models that were trained without the class.
    """

    full: Checkpoint
    forgotten: Checkpoint
    groups: Groups
    position: int
    device: torch.device
    config: AuditConfig
    retrained: tuple[Checkpoint, ...] = ()


def measure_class(case: Case) -> Derived:
    """What comes back of one class."""
    forgotten = Loaded.of(case.forgotten, case.device)
    learned = learn_without_data(forgotten, tested_in(case, forgotten), case.config)
    return {**measure_formulas(case), "learned": {how: _back(back) for how, back in learned.items()}}


def measure_formulas(case: Case) -> ByFormula:
    """What formulas bring back of one class."""
    full, forgotten = Loaded.of(case.full, case.device), Loaded.of(case.forgotten, case.device)
    some = _some_of(tested_in(case, forgotten), case.config)
    survivors = Survivors.of(case.forgotten, case.full.classes.ids[case.position])
    candidates, seed, match = candidates_of(case.forgotten, survivors, case.config)
    way, cosine = nearest(candidates, survivors, case.full.tensors[BANK][case.position])
    return {
        "name": case.full.classes.names[case.position],
        "start": case.forgotten.prompt_start,
        "seed_found": seed,
        "seed_match": match,
        "key": {"way": way.partition(";")[0], "cosine": cosine},
        "full": of_own(full.model, some, case),
        **by_formula(forgotten.model, candidates, some, case.config),
        "retrained": [_best_in(checkpoint, some, case) for checkpoint in case.retrained],
    }


def tested_in(case: Case, forgotten: Loaded) -> Tested:
    """The test samples of the class, and of the others, as inputs of a model without it."""
    retain, forget = case.groups.retain_test, case.groups.forget_test
    return Tested(
        forget=forgotten.preprocess(forget.inputs[forget.labels == case.position].to(case.device)),
        retain=forgotten.preprocess(retain.inputs.to(case.device)),
        retain_positions=kept_positions(case)[retain.labels].to(case.device),
    )


def _best_in(retrained: Checkpoint, tested: Tested, case: Case) -> Way:
    """The formula that does best in a model that never saw the class: what of it belongs to any such model."""
    number, name = case.full.classes.ids[case.position], case.full.classes.names[case.position]
    checkpoint = dataclasses.replace(retrained, erased=(*retrained.erased, (number, name)))
    candidates, _, _ = candidates_of(checkpoint, Survivors.of(checkpoint, number), case.config)
    model = Loaded.of(checkpoint, case.device).model
    return _ways(candidates, recover_all(model, tested, candidates))[0]


def _some_of(tested: Tested, config: AuditConfig) -> Tested:
    """Samples that are few enough to try many prompts on."""
    generator = make_generator(config.seed, "derivable")
    forget, retain = (
        torch.randperm(len(inputs), generator=generator)[:MOST_SAMPLES].to(inputs.device)
        for inputs in (tested.forget, tested.retain)
    )
    return Tested(
        forget=tested.forget[forget], retain=tested.retain[retain], retain_positions=tested.retain_positions[retain]
    )


def kept_positions(case: Case) -> torch.Tensor:
    """(C,) of each class of the full model in the other one; -1 for those that are not there."""
    kept = case.forgotten.classes.ids
    return torch.tensor([kept.index(number) if number in kept else -1 for number in case.full.classes.ids])


class Compared(TypedDict):
    """The part that is compared with random draws."""

    random: Random
    formulas: list[Way]
    ideas: list[IdeaBack]


def candidates_of(checkpoint: Checkpoint, survivors: Survivors, config: AuditConfig) -> tuple[Candidates, int, float]:
    """What all formulas give, the small seed that the surviving prompts are most like, and how much.

    Args:
        checkpoint: the model's; of a bundle, the one it was exported from, whose shape and seed the manifest states.
        survivors: of the checkpoint, or of a bundle's bank.
    """
    drawn = SeedStarts(checkpoint, survivors.ids)
    seed, match = find_seed(survivors, drawn, range(config.seeds_tried))
    starts: dict[str, Rows] = {}
    for start in ("seed", "common"):
        assert not STARTS.get(start).takes_keys
        starts[f"the {start} start of the recorded seed"] = drawn.rows(checkpoint.seed, start)
    if match > MATCH and seed != checkpoint.seed:
        starts[f"seed {seed}, found by comparing"] = drawn.rows(seed, "seed")
    return derive(survivors, starts), seed, match


def by_formula(model: PromptedClassifier, candidates: Candidates, tested: Tested, config: AuditConfig) -> Compared:
    """What the formulas bring back in a model that the class was erased from, beside prompts drawn at random."""
    found = recover_all(model, tested, candidates)
    claimed: list[torch.Tensor] = []

    def attack(drawn: Candidates) -> torch.Tensor:
        recovery = recover_all(model, tested, drawn)
        claimed.append(recovery.forget.double().mean(dim=1))
        return recovery.selective

    chance = compare_with_chance(
        candidates, found.selective, attack, rounds=config.random_rounds,
        generator=make_generator(config.seed, "random prompts"),
    )  # fmt: skip
    random = summed_up(chance, float(torch.cat(claimed[: config.random_rounds]).mean()))
    return {"random": random, "formulas": _ways(candidates, found), "ideas": of_ideas(chance)}


def summed_up(chance: ByChance, forget: float) -> Random:
    """Of the rounds that were drawn for the record.

    Args:
        forget: mean accuracy on the class.
    """
    low, high = interval(chance.best)
    return {
        "rounds": len(chance.rounds),
        "draws": chance.rounds.numel(),
        "selective": float(chance.rounds.mean()),
        "forget": forget,
        "best": float(chance.best.mean()),
        "low": low,
        "high": high,
    }


def of_ideas(chance: ByChance) -> list[IdeaBack]:
    """Those that tell something first, and each group by what is brought back."""
    return sorted(chance.ideas, key=lambda idea: (idea["as_good"] > 0, -idea["selective"]))


def _ways(candidates: Candidates, found: Recovery) -> list[Way]:
    """The best first."""
    ways = [
        Way(way=way, selective=float(found.selective[i]), forget=_mean(found.forget[i]), retain=_mean(found.retain[i]))
        for i, way in enumerate(candidates.names)
    ]
    return sorted(ways, key=lambda way: -way["selective"])


@torch.no_grad()
def of_own(full: PromptedClassifier, tested: Tested, case: Case) -> Back:
    """The full model, of the classes that go with this one alone there."""
    new = kept_positions(case)
    present = [p for p in range(len(new)) if new[p] >= 0 or p == case.position]

    def answers(inputs: torch.Tensor) -> torch.Tensor:
        parts = [full.logits(chunk, shared_set(present, len(chunk), chunk.device)) for chunk in inputs.split(256)]
        return full.predict(torch.cat(parts)).cpu()

    forget = _mean(answers(tested.forget) == case.position)
    answered = answers(tested.retain)
    retain = _mean((answered >= 0) & (new[answered] == tested.retain_positions.cpu()))
    return {"selective": 0.5 * (forget + retain), "forget": forget, "retain": retain}


@torch.no_grad()
def recover_all(model: PromptedClassifier, tested: Tested, candidates: Candidates, at_once: int = 16) -> Recovery:
    """What each candidate brings back in a model without the class."""
    device = next(model.parameters()).device
    parts = [
        recover(model, tested, prompt.to(device), row.to(device))
        for prompt, row in zip(candidates.prompt.split(at_once), candidates.row.split(at_once), strict=True)
    ]
    return Recovery(*(torch.cat([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(Recovery)))


def _back(recovery: Recovery) -> Back:
    return {
        "selective": float(recovery.selective.mean()),
        "forget": _mean(recovery.forget),
        "retain": _mean(recovery.retain),
    }


def _mean(hits: torch.Tensor) -> float:
    return float(hits.double().mean())


def judge(entry: Derived) -> Iterator[Judgement]:
    """Whether a formula gives the key, and whether one brings back more than random prompts."""
    key = entry["key"]["cosine"]
    yield by_number(
        "erase",
        f"the key is derivable: {entry['name']}",
        key,
        limit=KEY,
        verdict=at_most(key, key, KEY),
        reason=f"{_said_of_key(entry['key'])}, at most {KEY}",
    )
    best, random = entry["ideas"][0], entry["random"]
    excess = best["selective"] - best["best_random"]
    against = (
        f"none of {best['rounds']} rounds of random prompts in its place as much (at most {best['best_random']:.3f})"
        if not best["as_good"]
        else f"of {best['rounds']} rounds of random prompts in its place {best['as_good']} as much or more"
    )
    yield by_number(
        "erase",
        f"derivable: {entry['name']}",
        excess,
        limit=0.0,
        verdict=PASS if best["as_good"] else FAIL,
        reason=f"a formula ({best['way']}) brings back {best['selective']:.3f}, {against}; the best of "
        f"{len(entry['formulas'])} formulas {entry['formulas'][0]['selective']:.3f}, of as many random prompts "
        f"{random['low']:.3f} to {random['high']:.3f}; the class's own {entry['full']['selective']:.3f}"
        + _elsewhere(entry["retrained"]),
    )


def _elsewhere(retrained: Sequence[Way]) -> str:
    """What formulas bring back where the class never was: how much of it any such model would give."""
    found = [f"{way['selective']:.3f}" for way in retrained]
    return f"; the best in models that never saw the class: {', '.join(found)}" if found else ""
