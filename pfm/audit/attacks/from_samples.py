"""Made again: the start of an erased class that follows from its training samples, drawn by somebody who has those.

This needs data of the class, and whoever has it can learn a new prompt as well (resurrection), so it says nothing of
the level *erase*. It is judged beside resurrection, by models that never saw the class: their starts are made again in
the same way.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TypedDict

from pfm.audit.attacks.attack import Measurement
from pfm.audit.attacks.derivable import Case, of_own, recover_all, tested_in
from pfm.audit.derivable import Candidates, Survivors, derive, nearest, rows_of_keys
from pfm.audit.derived import Back
from pfm.audit.markup import counted, table
from pfm.audit.models import Models
from pfm.audit.rule import Side
from pfm.audit.sampled import Sampled, compare
from pfm.audit.subject import Loaded
from pfm.audit.verdict import Judgement, by_rule
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK
from pfm.model.starts import STARTS, KeySource

HOW = "the training samples"  # in the names of formulas


class Remade(TypedDict):
    """One class's figures.

    Keys:
        samples: training samples of the class that the key was made from, or might have been.
        cosine: of the start made again to the class's own prompt, less what all prompts share.
        full: with the class's own prompt and row.
        forgotten, retrained: with the start made again, in the judged model and in each oracle.
    """

    name: str
    start: str
    samples: int
    way: str
    cosine: float
    full: Back
    forgotten: Back
    retrained: list[Back]


class FromSamples:
    """Judged by the area under the ROC curve of the class's score; nothing where no start follows from samples."""

    name = "made_again"
    about = "the file, its seed and the class's own training samples; draws the start again"

    def measure(self, models: Models) -> Measurement[list[Remade]]:
        start = STARTS.get(models.full.prompt_start)
        if not start.samples:
            return Measurement([])
        contents = functools.cache(models.data.train.first_contents)

        @functools.cache
        def keys(seed: int) -> Sequence[bytes]:
            return start.keys(KeySource(names=models.full.classes.names, seed=seed, contents=contents))

        found = [_measure_class(models, position, keys) for position in models.positions]
        return Measurement([entry for entry, _ in found], tuple(judgement for _, judgement in found))

    def show(self, figures: list[Remade]) -> str:
        if not figures:
            return ""
        parts = ["<h2>Made again from the training samples</h2>"
                 "<p>The start of each prompt follows from the seed and the class's first training samples. Whoever "
                 "has exactly those draws it again. That takes data of the class, as resurrection does, and does not "
                 "count for the level erase; of a public data set everybody has it.</p>"]  # fmt: skip
        for entry in figures:
            rows = [_line("the class's own prompt", entry["full"]), _line("made again", entry["forgotten"])]
            rows += [_line("made again in a model that never saw it", back) for back in entry["retrained"]]
            parts.append(f"<p>{_said(entry)}.</p>{table(['', 'class', 'others', 'mean'], rows)}")
        return "".join(parts)


def _line(what: str, back: Back) -> list[str]:
    return [what, *(f"{back[key]:.3f}" for key in ("forget", "retain", "selective"))]


def _said(entry: Remade) -> str:
    return (
        f"the start made again from {counted(entry['samples'], 'training sample')} of the class has cosine "
        f"{entry['cosine']:.2f} to its own prompt and brings back {entry['forgotten']['selective']:.3f} (its own "
        f"{entry['full']['selective']:.3f})"
    )


def _measure_class(models: Models, position: int, keys: Callable[[int], Sequence[bytes]]) -> tuple[Remade, Judgement]:
    """Figures, and what is judged.

    Args:
        keys: of a seed, one a class of the full model.
    """
    full, forgotten = models.full, models.loaded["forgotten"]
    case = Case(
        full=full, forgotten=models.forgotten, groups=models.groups, position=position, device=models.device,
        config=models.config,
    )  # fmt: skip
    tested = tested_in(case, forgotten)
    number, name = full.classes.ids[position], full.classes.names[position]

    def attack(checkpoint: Checkpoint, loaded: Loaded, seed: int) -> tuple[Candidates, Survivors, Back, Sampled]:
        survivors = Survivors.of(checkpoint, number)
        candidates = _remade(derive(survivors, {HOW: rows_of_keys(full, survivors.ids, seed, keys(seed))}))
        recovery = recover_all(loaded.model, tested, candidates)
        best = int(recovery.auroc.argmax())
        hits = recovery.forget[best].double(), recovery.retain[best].double()
        back: Back = {
            "selective": float(recovery.selective[best]), "forget": float(hits[0].mean()),
            "retain": float(hits[1].mean()),
        }  # fmt: skip
        one = dataclasses.replace(recovery, placed=recovery.placed[[best]], placed_rest=recovery.placed_rest[[best]])
        return candidates, survivors, back, one.area

    candidates, survivors, back, area = attack(models.forgotten, forgotten, full.seed)
    oracles = [
        attack(dataclasses.replace(c, erased=(*c.erased, (number, name))), loaded, c.seed)
        for c, loaded in zip([one.checkpoint for one in models.oracles], models.loaded_oracles, strict=True)
    ]
    way, cosine = nearest(candidates, survivors, full.tensors[BANK][position])
    entry: Remade = {
        "name": name,
        "start": full.prompt_start,
        "samples": min(STARTS.get(full.prompt_start).samples, int((models.data.train.labels == position).sum())),
        "way": way.partition(";")[0],
        "cosine": cosine,
        "full": of_own(models.loaded["full"].model, tested, case),
        "forgotten": back,
        "retrained": [theirs for _, _, theirs, _ in oracles],
    }
    compared = compare(area, [theirs for *_, theirs in oracles], models.config.epsilon, side=Side.ABOVE)
    what = f"{_said(entry)}; AUROC of the class brought back so is"
    return entry, by_rule("scrub", f"made again from its training samples: {name}", compared, what)


def _remade(found: Candidates) -> Candidates:
    """Of all formulas those that begin with the start, each with the row that it gives itself."""
    ways = [way.partition("; row: ") for way in found.names]
    starts = [n for n, (own, _, _) in enumerate(ways) if own.startswith(f"start from {HOW}")]
    return found.chosen([n for n in starts if ways[n][2] in ("", ways[n][0])])
