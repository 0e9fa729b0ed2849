"""Accuracy by (classes seen, prompts present), gathered over processes.

Everything the paper reports is a question to one table: which class does the model answer for each
test sample, under each active set? A set is run once whoever asks: the sets of k = 1 are those of
`all_wrong`, the sets of k = C-1 are the `class_<i>` modes, and `infer_best` is read off the latter.

Letters: N samples, C classes in the bank, A active sets.
"""

import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from pfm.classes import ClassList
from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.errors import DataError
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import MODES, Draw, shared_set
from pfm.model.views import Views
from pfm.options import option
from pfm.runlog import progress
from pfm.seeds import make_generator

ActiveSet = tuple[int, ...]
# the paper's modes, besides `class_<i>` for each class
MODE_NAMES = (*MODES, "infer_best")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How much is evaluated, and in what portions."""

    eval_batch_size: int = option(128, "Images or clips per batch in evaluation.", minimum=1)
    max_subsets: int | None = option(
        None, "Evaluate at most this many subsets for each k, drawn with the seed.  [default: all]", minimum=1
    )


@dataclass(frozen=True)
class SubsetAccuracies:
    """Forgetting k classes at a time.

    Attributes:
        forget, retain: one accuracy in [0, 1] per subset; nan where a side has no test sample.
        num_possible: how many subsets of that size there are; more than were run if they were sampled.
    """

    k: int
    subsets: list[ActiveSet]
    forget: list[float]
    retain: list[float]
    num_possible: int

    def summary(self) -> dict[str, float]:
        """Mean and (population) standard deviation over the subsets, as the paper's tool writes them."""
        result = {}
        for name, values in (("forget", self.forget), ("retain", self.retain)):
            known = [value for value in values if not math.isnan(value)]
            result[f"{name}_mean"] = statistics.fmean(known) if known else math.nan
            result[f"{name}_std"] = statistics.pstdev(known) if known else math.nan
        return result


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one model.

    Attributes:
        modes: accuracy by inference mode, in [0, 1].
        subsets: by k.
        unknown: share of samples answered `unknown`: with the class there and with it removed (k = 1).
    """

    modes: dict[str, float]
    subsets: list[SubsetAccuracies] = field(default_factory=list)
    unknown: dict[str, float] | None = None
    num_samples: int = 0

    def inference_accuracies(self) -> dict[str, dict[str, float]]:
        return {str(entry.k): entry.summary() for entry in self.subsets}

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "modes": self.modes,
            "unknown": self.unknown,
            "subsets": [{**asdict(entry), **entry.summary()} for entry in self.subsets],
        }


def label_positions(classes: ClassList, data: ClassList, erased: Sequence[tuple[int, str]] = ()) -> torch.Tensor:
    """Position in the bank of each label of a data set, (number of labels,); -1 for an erased class.

    Classes are matched by name where the data set has all names, else by number where the counts agree.

    Raises:
        DataError: the data set is not one for these classes.
    """
    known = {*classes.names, *(name for _, name in erased)}
    if set(data.names) == known:
        return torch.tensor([classes.names.index(name) if name in classes.names else -1 for name in data.names])
    numbers = {*classes.ids, *(number for number, _ in erased)}
    if set(data.ids) == numbers:
        return torch.tensor([classes.ids.index(number) if number in classes.ids else -1 for number in data.ids])
    raise DataError(
        f"the data set's classes ({data.describe()}) are not the model's ({classes.describe()}); "
        "give the data set that the model was trained on"
    )


class Evaluator:
    """Runs a model over a split under many active sets, each distinct one once.

    The processes share the batches out among them. What is drawn for a batch depends on its place in
    the split and on the seed, so the figures are the same whatever the number of processes.

    Args:
        split: test samples.
        positions: `label_positions` of the split's labels.
        preprocess: inputs as stored -> model input.
        device: where the model is.
        inputs: (B,) indices -> inputs as stored, on the device.  [default: taken from the split]
        tokens: (B,) indices -> what the trunk makes of them, where that is known already.
        rank, world_size: this process takes every `world_size`-th batch.
        reduce: sums a tensor over the processes.
        autocast: precision to run the model in.
        check: called by every process equally often; may end the evaluation by raising.
    """

    def __init__(
        self,
        split: Split,
        positions: torch.Tensor,
        preprocess: Preprocess,
        *,
        device: torch.device,
        batch_size: int,
        seed: int,
        inputs: Callable[[torch.Tensor], torch.Tensor] | None = None,
        tokens: Callable[[torch.Tensor], torch.Tensor] | None = None,
        rank: int = 0,
        world_size: int = 1,
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext,
        check: Callable[[], None] = lambda: None,
        show_progress: bool = True,
    ) -> None:
        batches = torch.arange(len(split)).split(batch_size)
        self.batches = dict(list(enumerate(batches))[rank::world_size])  # number in the split -> indices
        self.num_turns = -(-len(batches) // world_size)  # of the process that has most
        own = torch.cat([*self.batches.values(), torch.empty(0, dtype=torch.int64)])
        everyone = positions[split.labels]
        self.own = own
        self.everyone = everyone  # labels of the whole split, -1 where the class was erased
        self.labels = everyone[own]  # (N,) of this process's samples
        self.preprocess = preprocess
        self.device = device
        self.seed = seed
        self.inputs = inputs or (lambda index: split.inputs[index].to(device, non_blocking=True))
        self.tokens = tokens
        self.reduce = reduce
        self.autocast = autocast
        self.check = check
        self.show_progress = show_progress
        self.num_samples = len(split)

    def evaluate(
        self, model: PromptedClassifier, *, ks: Sequence[int] = (), max_subsets: int | None = None
    ) -> Evaluation:
        """All inference modes, and forgetting for each k in `ks`."""
        num_classes = model.num_classes
        everything = tuple(range(num_classes))
        singles = [(i,) for i in everything]
        leave_one_out = [tuple(j for j in everything if j != i) for i in everything]
        chosen = {k: self._choose_subsets(num_classes, k, max_subsets) for k in ks}
        wanted = [everything, (), *singles, *leave_one_out]
        wanted += [_complement(removed, num_classes) for subsets in chosen.values() for removed in subsets]
        # the shuffled bank and the two subset modes differ from sample to sample; all else is shared
        drawn = {name: MODES[name] for name in ("full_bank_shuffle", "mixed_subset", "wrong_subset")}
        table = self.run(model, list(dict.fromkeys(wanted)), drawn)

        own = self.labels.clamp_min(0)
        generator = make_generator(self.seed, "random_wrong")
        everyone = self.everyone.clamp_min(0)
        wrong = MODES["random_wrong"](everyone, num_classes, generator)[self.own, 0] if num_classes > 1 else own
        rows = torch.arange(len(own))
        single_answers = torch.stack([table.answers[active] for active in singles])  # (C, N)
        modes = {
            "full_bank": table.answers[everything],
            "full_bank_shuffle": table.drawn["full_bank_shuffle"],
            **{f"class_{model.classes.ids[i]}": single_answers[i] for i in everything},
            "match_only": single_answers[own, rows],
            "mixed_subset": table.drawn["mixed_subset"],
            "all_wrong": torch.stack([table.answers[active] for active in leave_one_out])[own, rows],
            "wrong_subset": table.drawn["wrong_subset"],
            "random_wrong": single_answers[wrong, rows],
            "none": table.answers[()],
            "infer_best": model.predict(table.best_single),
        }
        accuracies = self._accuracies(list(modes.values()))
        return Evaluation(
            modes=dict(zip(modes, accuracies, strict=True)),
            subsets=[self._subset_accuracies(table, k, subsets, num_classes) for k, subsets in chosen.items()],
            unknown=self._unknown_share(modes["full_bank"], modes["all_wrong"]) if model.can_abstain else None,
            num_samples=self.num_samples,
        )

    def accuracy_of_set(self, model: PromptedClassifier, active: Iterable[int]) -> dict[str, float]:
        """Forget and retain accuracy when exactly the prompts at `active` are there."""
        kept = tuple(sorted(active))
        table = self.run(model, [kept], {})
        removed = _complement(kept, model.num_classes)
        entry = self._subset_accuracies(table, len(removed), [removed], model.num_classes)
        return {"forget": entry.forget[0], "retain": entry.retain[0]}

    @torch.inference_mode()
    def run(self, model: PromptedClassifier, actives: list[ActiveSet], drawn: dict[str, Draw]) -> "_Table":
        """Answers of the model for every sample under every active set and every drawn mode."""
        was_training = model.training
        model.eval()
        answers: dict[ActiveSet, list[torch.Tensor]] = {active: [] for active in actives}
        drawn_answers: dict[str, list[torch.Tensor]] = {name: [] for name in drawn}
        best_single: list[torch.Tensor] = []
        total = len(self.own) * (len(actives) + len(drawn))
        turns = [*self.batches.items(), *[None] * (self.num_turns - len(self.batches))]
        with self.autocast(), progress(total, "evaluating", unit="img", is_main=self.show_progress) as bar:
            for turn in turns:
                self.check()
                if turn is None:  # another process has one batch more
                    continue
                number, index = turn
                views = (
                    Views(model, [(self.tokens(index), None)])
                    if self.tokens
                    else Views.of(model, self.preprocess, self.inputs(index))
                )
                best: torch.Tensor | None = None
                for active in actives:
                    logits = views.logits(shared_set(list(active), len(index), self.device))
                    answers[active].append(model.predict(logits))
                    if len(active) == 1:
                        best = logits if best is None else torch.maximum(best, logits)
                    bar.update(len(index))
                if best is not None:
                    best_single.append(best)
                own = self.everyone[index].clamp_min(0)
                for name, draw in drawn.items():
                    generator = make_generator(self.seed, name, number)
                    present = draw(own, model.num_classes, generator).to(self.device)
                    drawn_answers[name].append(model.predict(views.logits(present)))
                    bar.update(len(index))
        model.train(was_training)

        def join(parts: list[torch.Tensor]) -> torch.Tensor:
            return torch.cat(parts).cpu() if parts else torch.empty(0, dtype=torch.int64)

        return _Table(
            answers={active: join(parts) for active, parts in answers.items()},
            drawn={name: join(parts) for name, parts in drawn_answers.items()},
            best_single=torch.cat(best_single).cpu() if best_single else torch.empty(0, model.num_classes),
        )

    def _choose_subsets(self, num_classes: int, k: int, max_subsets: int | None) -> list[ActiveSet]:
        """All k-subsets, or `max_subsets` distinct ones drawn with the seed."""
        possible = math.comb(num_classes, k)
        if max_subsets is None or possible <= max_subsets:
            return list(itertools.combinations(range(num_classes), k))
        generator = make_generator(self.seed, "subsets", k)
        chosen: set[ActiveSet] = set()
        while len(chosen) < max_subsets:
            members = torch.randperm(num_classes, generator=generator)[:k].tolist()
            chosen.add(tuple(sorted(members)))
        return sorted(chosen)

    def _accuracies(self, answers: list[torch.Tensor]) -> list[float]:
        """Share of right answers, on samples of classes that are there, for each row of answers."""
        present = self.labels >= 0
        counts = torch.stack([*(((row == self.labels) & present).sum() for row in answers), present.sum()])
        counts = self.reduce(counts.to(self.device)).cpu()
        return (counts[:-1] / counts[-1]).tolist()

    def _subset_accuracies(
        self, table: "_Table", k: int, subsets: list[ActiveSet], num_classes: int
    ) -> SubsetAccuracies:
        counts = torch.zeros(len(subsets), 4, dtype=torch.int64)  # forget right, all; retain right, all
        present = self.labels >= 0  # samples of erased classes count on neither side
        for row, removed in enumerate(subsets):
            right = table.answers[_complement(removed, num_classes)] == self.labels
            is_forgotten = torch.isin(self.labels, torch.tensor(removed, dtype=torch.int64))
            is_retained = present & ~is_forgotten
            counts[row] = torch.stack(
                [(right & is_forgotten).sum(), is_forgotten.sum(), (right & is_retained).sum(), is_retained.sum()]
            )
        counts = self.reduce(counts.to(self.device)).cpu()
        return SubsetAccuracies(
            k=k,
            subsets=subsets,
            forget=(counts[:, 0] / counts[:, 1]).tolist(),
            retain=(counts[:, 2] / counts[:, 3]).tolist(),
            num_possible=math.comb(num_classes, k),
        )

    def _unknown_share(self, full_bank: torch.Tensor, own_removed: torch.Tensor) -> dict[str, float]:
        there = self.labels >= 0
        counts = torch.stack([((row < 0) & there).sum() for row in (full_bank, own_removed)] + [there.sum()])
        counts = self.reduce(counts.to(self.device)).cpu()
        present, removed = (counts[:-1] / counts[-1]).tolist()
        return {"class_present": present, "class_removed": removed}


@dataclass(frozen=True)
class _Table:
    """Answers, as positions in the bank or -1, for this process's samples."""

    answers: dict[ActiveSet, torch.Tensor]
    drawn: dict[str, torch.Tensor]
    best_single: torch.Tensor  # (N, C) largest logit of each class over the one-prompt forwards


def _complement(removed: Iterable[int], num_classes: int) -> ActiveSet:
    gone = set(removed)
    return tuple(i for i in range(num_classes) if i not in gone)


def forget_sizes(num_classes: int) -> list[int]:
    """The paper's k: 1, ⌊C/2⌋ and C-1, each once."""
    return sorted({k for k in (1, num_classes // 2, num_classes - 1) if 1 <= k < num_classes})
