"""Made again: the start of an erased class that follows from its training samples, drawn by somebody who has those.

This needs data of the class, and whoever has it can learn a new prompt as well (resurrection), so it says nothing of
the level *erase*. It is judged beside resurrection, by models that never saw the class: their starts are made again in
the same way.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, TypedDict

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
from pfm.data.splits import Split
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
        if not STARTS.get(models.full.prompt_start).samples:
            return Measurement([])
        found = [_measure_class(models, position) for position in models.positions]
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


def key_source(checkpoint: Checkpoint, train: Split) -> KeySource:
    """What the keys of a model's start can be made of again.

    Args:
        train: labels are positions in the model's bank.
    """
    contents = functools.cache(train.first_contents)
    return KeySource(names=checkpoint.classes.names, seed=checkpoint.seed, contents=contents)


@dataclass(frozen=True, kw_only=True)
class MadeAgain:
    """What the start made again gives in one model.

    Attributes:
        way, cosine: of the formula that comes closest to the class's own prompt.
        back: the best by the area under the ROC curve.
        area: that area.
    """

    way: str
    cosine: float
    back: Back
    area: Sampled

    def figures(self) -> dict[str, Any]:
        """In plain values."""
        return {"way": self.way, "cosine": self.cosine, **self.back}


def make_again(case: Case, source: KeySource) -> MadeAgain:
    """Draw the start of an erased class again, moved as those of the others did or not.

    Args:
        source: of the full model, or with another seed where another model is attacked.
    """
    full, forgotten = case.full, Loaded.of(case.forgotten, case.device)
    survivors = Survivors.of(case.forgotten, full.classes.ids[case.position])
    keys = STARTS.get(full.prompt_start).keys(source)
    candidates = _remade(derive(survivors, {HOW: rows_of_keys(full, survivors.ids, source.seed, keys)}))
    recovery = recover_all(forgotten.model, tested_in(case, forgotten), candidates)
    best = int(recovery.auroc.argmax())
    forget, retain = (float(hits[best].double().mean()) for hits in (recovery.forget, recovery.retain))
    way, cosine = nearest(candidates, survivors, full.tensors[BANK][case.position])
    one = dataclasses.replace(recovery, placed=recovery.placed[[best]], placed_rest=recovery.placed_rest[[best]])
    back: Back = {"selective": float(recovery.selective[best]), "forget": forget, "retain": retain}
    return MadeAgain(way=way.partition(";")[0], cosine=cosine, back=back, area=one.area)


def _measure_class(models: Models, position: int) -> tuple[Remade, Judgement]:
    full, train = models.full, models.data.train
    source = key_source(full, train)
    case = Case(
        full=full, forgotten=models.forgotten, groups=models.groups, position=position, device=models.device,
        config=models.config,
    )  # fmt: skip
    number, name = full.classes.ids[position], full.classes.names[position]
    mine = make_again(case, source)
    theirs: list[MadeAgain] = []
    for oracle in models.oracles:
        checkpoint = oracle.checkpoint
        less = dataclasses.replace(checkpoint, erased=(*checkpoint.erased, (number, name)))
        own = dataclasses.replace(source, seed=checkpoint.seed)
        theirs.append(make_again(dataclasses.replace(case, forgotten=less), own))
    entry: Remade = {
        "name": name,
        "start": full.prompt_start,
        "samples": min(STARTS.get(full.prompt_start).samples, int((train.labels == position).sum())),
        "way": mine.way,
        "cosine": mine.cosine,
        "full": of_own(models.loaded["full"].model, tested_in(case, models.loaded["forgotten"]), case),
        "forgotten": mine.back,
        "retrained": [other.back for other in theirs],
    }
    compared = compare(mine.area, [other.area for other in theirs], models.config.epsilon, side=Side.ABOVE)
    what = f"{_said(entry)}; AUROC of the class brought back so is"
    return entry, by_rule("scrub", f"made again from its training samples: {name}", compared, what)


def _remade(found: Candidates) -> Candidates:
    """Of all formulas those that begin with the start, each with the row that it gives itself."""
    ways = [way.partition("; row: ") for way in found.names]
    starts = [n for n, (own, _, _) in enumerate(ways) if own.startswith(f"start from {HOW}")]
    return found.chosen([n for n in starts if ways[n][2] in ("", ways[n][0])])
