"""What an erased class's prompt and classifier row can be computed to be, from what is left and what everybody knows.

Known formulas: the start that a seed gives, recorded or found among small ones by comparing the prompts that are left;
that start moved as the siblings moved; sums over the classes that are zero, of what was learned and of the optimizer's
first moments. None of them looks at data.

Letters: C classes before, K classes left, A candidates, m tokens per prompt, D hidden size.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from pfm.backbones.loading import build_backbone
from pfm.classes import ClassList
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK, PromptedClassifier, class_row_names
from pfm.model.starts import STARTS

Rows = dict[str, torch.Tensor]  # by the parameter's name, a row a class
SUM, AGAINST = "minus the sum of the others", "moved against the others"  # what a sum of zero over the classes gives
WEIGHT, BIAS = "weight", "bias"  # the parts of a classifier row, behind the last dot of the parameter's name


@dataclass(frozen=True)
class Survivors:
    """What is left of the classes after an erasure.

    Attributes:
        rows: (K, …) of each parameter that has a row a class.
        moments: (K, …) first moments of the same, empty where there are none.
        ids: numbers of the classes before, ascending (C,); `kept` and `gone` are positions in it.
    """

    rows: Rows
    ids: tuple[int, ...]
    kept: tuple[int, ...]
    gone: int
    moments: Rows = field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, number: int) -> "Survivors":
        """Of a checkpoint, and one class that was erased from it."""
        model_rows = {**checkpoint.tensors, **checkpoint.averaged}
        names = class_rows_of(model_rows)
        moments = {
            name: checkpoint.moments[name]["exp_avg"] for name in names if "exp_avg" in checkpoint.moments.get(name, {})
        }
        ids = tuple(sorted({*checkpoint.classes.ids, *(i for i, _ in checkpoint.erased)}))
        return cls(
            {name: model_rows[name] for name in names},
            ids,
            tuple(ids.index(i) for i in checkpoint.classes.ids),
            ids.index(number),
            moments,
        )

    @classmethod
    def of_bank(cls, bank: Mapping[str, torch.Tensor], ids: Sequence[int], number: int) -> "Survivors":
        """Of the tensors of a bundle's bank, `prompt.<i>` and, with classifier rows, `weight.<i>` and `bias.<i>`.

        Args:
            ids: of the classes before.
            number: of the one that was erased.
        """
        ids = tuple(sorted(ids))
        left = [i for i in ids if f"prompt.{i}" in bank]
        names = {"prompt": BANK, WEIGHT: f"classifier.{WEIGHT}", BIAS: f"classifier.{BIAS}"}
        rows = {
            name: torch.stack([bank[f"{kind}.{i}"] for i in left])
            for kind, name in names.items()
            if f"{kind}.{left[0]}" in bank
        }
        return cls(rows, ids, tuple(ids.index(i) for i in left), ids.index(number))


def class_rows_of(tensors: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
    """Names of those tensors that have a row a class."""
    return tuple(name for name in class_row_names() if name in tensors)


@dataclass(frozen=True)
class Candidates:
    """What a class's prompt and row may have been.

    Attributes:
        names: (A,) by which formula.
        prompt: (A, m, D).
        row: (A, D + 1), the bias last; zeros where the readout has no rows.
    """

    names: tuple[str, ...]
    prompt: torch.Tensor
    row: torch.Tensor

    @property
    def ideas(self) -> dict[str, list[int]]:
        """Which candidates have a prompt made of the same: moved, made larger or with other rows it is one idea."""
        found: dict[str, list[int]] = {}
        for place, name in enumerate(self.names):
            found.setdefault(name.partition(";")[0].partition(",")[0], []).append(place)
        return found

    def chosen(self, places: Sequence[int]) -> "Candidates":
        """Some of them."""
        return Candidates(tuple(self.names[p] for p in places), self.prompt[places], self.row[places])


class SeedStarts:
    """The rows that a seed gives to all classes, for a model of a checkpoint's shape; its backbone is built once."""

    def __init__(self, checkpoint: Checkpoint, ids: Sequence[int]) -> None:
        self._checkpoint = checkpoint
        self._classes = ClassList(tuple(ids), tuple(map(str, ids)))
        self._backbone = build_backbone(checkpoint.spec, seed=0, load_weights=False)

    @torch.no_grad()
    def rows(self, seed: int, start: str) -> Rows:
        """(C, …) of each parameter, at its start."""
        checkpoint = self._checkpoint
        shared = {id(parameter): parameter for parameter in self._backbone.parameters()}
        backbone = copy.deepcopy(self._backbone, shared)  # adapters go into the copy; its weights are never looked at
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PromptedClassifier(backbone, self._classes, checkpoint.model, checkpoint.lora)
        found = STARTS.get(start)
        if not found.takes_keys:
            found.apply(model, seed)
        return {name: model.get_parameter(name).detach() for name in model.class_row_names}


def rows_of_keys(full: Checkpoint, ids: Sequence[int], seed: int, keys: Sequence[bytes]) -> Rows:
    """(C, …) of each parameter at the start of a model of keys; zeros for a class without one.

    Args:
        ids: of the classes, ascending.
        keys: of the classes of `full`, in the order of its bank.
    """
    start, found = STARTS.get(full.prompt_start), {}
    for name in class_rows_of(full.tensors):
        shape = tuple(full.tensors[name].shape[1:])
        found[name] = torch.zeros(len(ids), *shape)
        for number, key in zip(full.classes.ids, keys, strict=True):
            row = start.row(name, shape, seed, key)
            if number in ids and row is not None:
                found[name][ids.index(number)] = torch.from_numpy(row)
    return found


def find_seed(survivors: Survivors, starts: SeedStarts, seeds: Sequence[int]) -> tuple[int, float]:
    """The seed whose prompts are most like those that are left, and how much: their mean cosine, -1 to 1."""
    left = survivors.rows[BANK].flatten(1)
    best = (-1, -1.0)
    for seed in seeds:
        drawn = starts.rows(seed, "seed")[BANK].flatten(1)[list(survivors.kept)]
        match = float(F.cosine_similarity(left, drawn, dim=1).mean())
        best = max(best, (seed, match), key=lambda entry: entry[1])
    return best


def derive(survivors: Survivors, starts: Mapping[str, Rows]) -> Candidates:
    """Every candidate that the formulas give: each prompt with the row of the same formula, and with those of sums.

    Args:
        starts: rows (C, …) of all classes at their start, by how they were found.
    """
    ways = {name: _ways(survivors, starts, name) for name in survivors.rows}
    prompts = ways[BANK]
    weights = {
        way: torch.cat([value.flatten(), _bias(ways, way)])
        for name, found in ways.items()
        if name.endswith(f".{WEIGHT}")
        for way, value in found.items()
    } or {"": survivors.rows[BANK].new_zeros(survivors.rows[BANK].shape[-1] + 1)}
    pairs = [(p, w) for p in prompts for w in weights if w in ("", p, SUM) or w.endswith(AGAINST)]
    return Candidates(
        tuple(f"{p}; row: {w}" if w else p for p, w in pairs),
        torch.stack([prompts[p] for p, _ in pairs]),
        torch.stack([weights[w] for _, w in pairs]),
    )


def _bias(ways: Mapping[str, Mapping[str, torch.Tensor]], way: str) -> torch.Tensor:
    biases = next(found for name, found in ways.items() if name.endswith(f".{BIAS}"))
    return biases.get(way, torch.zeros(())).reshape(1)


def _ways(survivors: Survivors, starts: Mapping[str, Rows], name: str) -> dict[str, torch.Tensor]:
    """What the row of the class may have been, of one parameter, by formula."""
    left = survivors.rows[name].float()  # (K, …)
    kept, gone = list(survivors.kept), survivors.gone
    size = left.reshape(len(left), -1).norm(dim=1).mean()

    def as_large(direction: torch.Tensor) -> torch.Tensor:
        return direction * (size / direction.norm().clamp_min(1e-12))

    ways = {
        "mean of the others": left.mean(dim=0),
        SUM: -left.sum(dim=0),
        "minus the sum of the others, as large as they are": as_large(-left.sum(dim=0)),
    }
    for how, rows in starts.items():
        start = rows[name]
        moved = left - start[kept]
        ways[f"start from {how}"] = start[gone]
        ways[f"start from {how}, moved as the others"] = start[gone] + moved.mean(dim=0)
        ways[f"start from {how}, {AGAINST}"] = start[gone] - moved.sum(dim=0)
    if name in survivors.moments:
        direction = survivors.moments[name].float().sum(dim=0)  # the erased moment is minus this
        ways["against the moments of the others"] = as_large(-direction)
        ways["along the moments of the others"] = as_large(direction)
    return ways


def nearest(candidates: Candidates, survivors: Survivors, own: torch.Tensor) -> tuple[str, float]:
    """Which candidate's prompt is most like the class's own, and how much: their cosine, at most 1.

    What all prompts share is nobody's key: the mean cosine to those that are left is taken away, where it is above 0.

    Args:
        own: (m, D).
    """
    left = F.normalize(survivors.rows[BANK].float().flatten(1), dim=1)  # (K, m·D)
    drawn = F.normalize(candidates.prompt.flatten(1), dim=1)  # (A, m·D)
    found = drawn @ F.normalize(own.float().flatten(), dim=0) - (drawn @ left.T).mean(dim=1).clamp_min(0)
    best = int(found.argmax())
    return candidates.names[best], float(found[best])


def turned(like: Candidates, generator: torch.Generator) -> Candidates:
    """Candidates that say nothing: all prompts turned together in a random direction, and all rows in another.

    They are as large as before and at the same angles to each other, so that variants of one formula stay as much alike
    as they were: size alone may bring a class back, and so may many tries that differ.

    Args:
        like: what is to be compared with them.
    """
    weight = _turned(like.row[:, :-1], generator)
    prompt = _turned(like.prompt.flatten(1), generator).view_as(like.prompt)
    return Candidates(("turned",) * len(like.names), prompt, torch.cat([weight, like.row[:, -1:]], dim=1))


def _turned(rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rows (A, D) turned by one rotation, of all alike; equal rows stay equal to the last bit."""
    distinct, place = torch.unique(rows.double(), dim=0, return_inverse=True)
    sizes = torch.linalg.qr(distinct.T).R  # (r, U): the rows in r directions at right angles, r = min(D, U)
    drawn = torch.randn(rows.shape[1], len(sizes), generator=generator, dtype=torch.float64)
    frame = torch.linalg.qr(drawn)
    directions = frame.Q * frame.R.diagonal().sign()  # any r directions at right angles, each as likely
    return (directions @ sizes).T[place].to(rows.dtype)
