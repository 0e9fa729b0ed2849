"""Derivable: what of an erased class comes back from what is left plus what everybody knows, without data of the class.

By known formulas (`pfm.audit.derivable`), which are judged in two ways. None of them is to give the class's own prompt,
its key: where rows drawn at random bring back much, that alone tells. The best of them is to bring back no more than
prompts drawn at random do; beside it stands what the best brings back in models that never saw the class. There is one
that beats random prompts in both: what stands against all prompts that are left gets whatever nobody else claims.

And by a prompt that is learned on inputs that the attacker made up, which is only reported: no erasure of rows touches
what the shared weights know.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.config import AuditConfig
from pfm.audit.derivable import Candidates, Rows, SeedStarts, Survivors, derive, draw_random, find_seed, nearest
from pfm.audit.figures import interval
from pfm.audit.groups import Groups
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.audit.resurrection import Learning, Recovery, Tested, recover, resurrect
from pfm.audit.rule import Tolerance
from pfm.audit.subject import Loaded
from pfm.audit.verdict import Judgement, at_most
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK, PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.starts import STARTS
from pfm.seeds import make_generator

MADE_UP = 8  # inputs that a prompt is learned on
LR = 0.05  # of Adam, for prompts that are learned on them, and for the inputs
MOST_LEARNED = 5  # prompts that are
KEY = 0.5  # cosine from which a formula's prompt is said to be the class's own
MATCH = 0.3  # cosine from which the surviving prompts are said to follow from a seed; of chance it is about 1/√D


class Back(TypedDict):
    """How far the class came back, in [0, 1]: accuracy on it, on the others, and their mean."""

    selective: float
    forget: float
    retain: float


class Way(Back):
    """One formula's candidate."""

    way: str


class Random(TypedDict):
    """Of prompts drawn at random: means, and the middle 95 % of the draws' selective accuracy."""

    draws: int
    selective: float
    forget: float
    low: float
    high: float


class Key(TypedDict):
    """The formula whose prompt is most like the class's own, and how much; see `pfm.audit.derivable.nearest`."""

    way: str
    cosine: float


class Derived(TypedDict):
    """One class's figures.

    Keys:
        start: of the judged model's prompts, as its file states it.
        seed_found: the small seed that the surviving prompts are most like, and their mean cosine to its prompts.
        key: what comes closest to the class's own prompt.
        full: with the class's own prompt and row.
        formulas: the best first.
        retrained: the best formula in each model that was retrained without the class; none where there is none.
        learned: without data, by the inputs it was learned on; means over the attack seeds.
    """

    name: str
    start: str
    seed_found: int
    seed_match: float
    key: Key
    full: Back
    random: Random
    formulas: list[Way]
    retrained: list[Way]
    learned: dict[str, Back]


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
                         f"{random['selective']:.3f} ({random['low']:.3f} to {random['high']:.3f})"])  # fmt: skip
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
    full, forgotten = Loaded.of(case.full, case.device), Loaded.of(case.forgotten, case.device)
    retain, forget = case.groups.retain_test, case.groups.forget_test
    tested = Tested(
        forget=forgotten.preprocess(forget.inputs[forget.labels == case.position].to(case.device)),
        retain=forgotten.preprocess(retain.inputs.to(case.device)),
        retain_positions=_kept_positions(case)[retain.labels].to(case.device),
    )
    survivors = Survivors.of(case.forgotten, case.full.classes.ids[case.position])
    candidates, seed, match = candidates_of(case.forgotten, survivors, case.config)
    way, cosine = nearest(candidates, survivors, case.full.tensors[BANK][case.position])
    return {
        "name": case.full.classes.names[case.position],
        "start": case.forgotten.prompt_start,
        "seed_found": seed,
        "seed_match": match,
        "key": {"way": way.partition(";")[0], "cosine": cosine},
        "full": _of_own(full.model, tested, case),
        **by_formula(forgotten.model, candidates, tested, case.config),
        "retrained": [_best_in(checkpoint, tested, case) for checkpoint in case.retrained],
        "learned": learn_without_data(forgotten, tested, case.config),
    }


def _best_in(retrained: Checkpoint, tested: Tested, case: Case) -> Way:
    """The formula that does best in a model that never saw the class: what of it belongs to any such model."""
    number, name = case.full.classes.ids[case.position], case.full.classes.names[case.position]
    checkpoint = dataclasses.replace(retrained, erased=(*retrained.erased, (number, name)))
    candidates, _, _ = candidates_of(checkpoint, Survivors.of(checkpoint, number), case.config)
    return by_formula(Loaded.of(checkpoint, case.device).model, candidates, tested, case.config)["formulas"][0]


def _kept_positions(case: Case) -> torch.Tensor:
    """(C,) of each class of the full model in the other one; -1 for those that are not there."""
    kept = case.forgotten.classes.ids
    return torch.tensor([kept.index(number) if number in kept else -1 for number in case.full.classes.ids])


class ByFormula(TypedDict):
    """The part of `Derived` that formulas and random draws give."""

    random: Random
    formulas: list[Way]


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


def by_formula(model: PromptedClassifier, candidates: Candidates, tested: Tested, config: AuditConfig) -> ByFormula:
    """What the formulas bring back in a model that the class was erased from, beside prompts drawn at random."""
    found = _recover(model, tested, candidates)
    ways = [
        Way(way=way, selective=float(found.selective[i]), forget=_mean(found.forget[i]), retain=_mean(found.retain[i]))
        for i, way in enumerate(candidates.names)
    ]
    random = _recover(
        model, tested, draw_random(candidates, config.random_prompts, make_generator(config.seed, "random prompts"))
    )
    low, high = interval(random.selective)
    return {
        "random": {
            "draws": config.random_prompts,
            "selective": float(random.selective.mean()),
            "forget": _mean(random.forget),
            "low": low,
            "high": high,
        },
        "formulas": sorted(ways, key=lambda way: -way["selective"]),
    }


def learn_without_data(loaded: Loaded, tested: Tested, config: AuditConfig) -> dict[str, Back]:
    """What prompts bring back that are learned on made-up inputs: noise, and noise that the model knows least about."""
    shape = (min(config.attack_seeds, MOST_LEARNED), MADE_UP, *tested.forget.shape[1:])
    noise = torch.randn(shape, generator=make_generator(config.seed, "made up")).to(tested.forget)
    inputs = {"noise": noise, "inputs that the model is least sure about": _least_sure(loaded.model, noise, config)}
    return {
        how: _back(
            resurrect(
                loaded.model, samples, tested,
                Learning(tokens=loaded.model.config.prompt_tokens, steps=config.attack_steps, lr=LR, seed=config.seed),
            )
        )
        for how, samples in inputs.items()
    }  # fmt: skip


def _least_sure(model: PromptedClassifier, noise: torch.Tensor, config: AuditConfig) -> torch.Tensor:
    """Inputs (A, n, …), from noise on, whose answer is as even as can be, `unknown` first: as of an erased class."""
    inputs = noise.flatten(0, 1).clone().requires_grad_()
    present = shared_set(list(range(model.num_classes)), len(inputs), inputs.device)
    optimizer = torch.optim.Adam([inputs], lr=LR)
    for _ in range(config.attack_steps):
        logits = model.logits(inputs, present)
        score = logits.logsumexp(dim=1) if model.unknown_logit > -torch.inf else -logits.log_softmax(dim=1).mean(dim=1)
        (gradient,) = torch.autograd.grad(score.sum(), inputs)
        inputs.grad = gradient
        optimizer.step()
    return inputs.detach().view(noise.shape)


@torch.no_grad()
def _of_own(full: PromptedClassifier, tested: Tested, case: Case) -> Back:
    """The full model, of the classes that go with this one alone there."""
    new = _kept_positions(case)
    present = [p for p in range(len(new)) if new[p] >= 0 or p == case.position]

    def answers(inputs: torch.Tensor) -> torch.Tensor:
        parts = [full.logits(chunk, shared_set(present, len(chunk), chunk.device)) for chunk in inputs.split(256)]
        return full.predict(torch.cat(parts)).cpu()

    forget = _mean(answers(tested.forget) == case.position)
    answered = answers(tested.retain)
    retain = _mean((answered >= 0) & (new[answered] == tested.retain_positions.cpu()))
    return {"selective": 0.5 * (forget + retain), "forget": forget, "retain": retain}


@torch.no_grad()
def _recover(model: PromptedClassifier, tested: Tested, candidates: Candidates, at_once: int = 16) -> Recovery:
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
    """Whether a formula gives the key, and whether the best brings back more than random prompts."""
    key = entry["key"]["cosine"]
    yield Judgement(
        level="erase",
        measure=f"the key is derivable: {entry['name']}",
        value=key,
        low=key,
        high=key,
        limit=KEY,
        verdict=at_most(key, key, KEY),
        reason=f"{_said_of_key(entry['key'])}, at most {KEY}",
    )
    best, random = entry["formulas"][0], entry["random"]
    excess = best["selective"] - random["high"]
    yield Judgement(
        level="erase",
        measure=f"derivable: {entry['name']}",
        value=excess,
        low=excess,
        high=excess,
        limit=Tolerance.DERIVED,
        verdict=at_most(excess, excess, Tolerance.DERIVED),
        reason=f"the best of {len(entry['formulas'])} formulas ({best['way']}) brings back {best['selective']:.3f}, "
        f"{random['draws']} random prompts {random['low']:.3f} to {random['high']:.3f}, the class's own "
        f"{entry['full']['selective']:.3f}" + _elsewhere(entry["retrained"]),
    )


def _elsewhere(retrained: Sequence[Way]) -> str:
    """What formulas bring back where the class never was: how much of it any such model would give."""
    found = [f"{way['selective']:.3f}" for way in retrained]
    return f"; the best in models that never saw the class: {', '.join(found)}" if found else ""
