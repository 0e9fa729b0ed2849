"""Evaluates a model on a split: every inference mode, and forgetting k classes.

A set is run once whoever asks: the sets of k = 1 are those of `all_wrong`, the sets of k = C-1 are the `class_<i>`
modes.

Letters: N samples of this process, C classes in the bank.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from pfm.data.inputs import Preprocess
from pfm.data.splits import Split
from pfm.device import Processes
from pfm.evaluation.config import EvalConfig
from pfm.evaluation.modes import DRAWN, mode_answers, mode_sets
from pfm.evaluation.outcome import Evaluation, SetAccuracy, UnknownShares
from pfm.evaluation.samples import Samples
from pfm.evaluation.served import Recorder
from pfm.evaluation.subsets import choose_subsets, complement, subset_accuracies
from pfm.evaluation.table import ActiveSet, Table, Turns, fill_table
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import Draw


def _nothing() -> None:
    pass


class Evaluator:
    """Runs a model over samples under many active sets, each distinct one once.

    Args:
        samples: of the split, the same on every process.
        processes: that share the batches.
        seed: of what is drawn.
        check: called once a turn, equally often by every process; may end the evaluation by raising.
    """

    def __init__(
        self,
        samples: Samples,
        processes: Processes,
        *,
        batch_size: int,
        seed: int,
        check: Callable[[], None] = _nothing,
    ) -> None:
        self.samples = samples
        self.processes = processes
        self.turns = Turns(len(samples), batch_size, processes)
        self.labels = samples.labels[self.turns.own]  # (N,)
        self.seed = seed
        self.check = check

    def evaluate(
        self,
        model: PromptedClassifier,
        *,
        ks: Sequence[int] = (),
        max_subsets: int | None = None,
        with_answers: bool = False,
    ) -> Evaluation:
        """All inference modes, and forgetting for each k in `ks`.

        Args:
            max_subsets: of each k, drawn with the seed where there are more; None for all.
            with_answers: every sample's answers too, which the measures of the field are computed from.
        """
        num_classes = model.num_classes
        chosen = {k: choose_subsets(num_classes, k, max_subsets, seed=self.seed) for k in ks}
        wanted = mode_sets(num_classes)
        wanted += [complement(removed, num_classes) for subsets in chosen.values() for removed in subsets]
        recorder = Recorder(num_classes) if with_answers else None
        table = self.run(model, wanted, DRAWN, recorder)
        modes = mode_answers(model, table, self.samples.labels, self.turns.own, seed=self.seed)
        return Evaluation(
            modes=dict(zip(modes, self._accuracies(list(modes.values())), strict=True)),
            subsets=[
                subset_accuracies(table, self.labels, subsets, num_classes, self._total) for subsets in chosen.values()
            ],
            unknown=self._unknown_shares(modes["full_bank"], modes["all_wrong"]) if model.can_abstain else None,
            num_samples=len(self.samples),
            num_erased=int((self.samples.labels < 0).sum()),
            largest_class=self._largest_class(),
            served=recorder and recorder.gathered(model, self.samples.labels, self.turns.own, self.processes),
        )

    def accuracy_of_set(self, model: PromptedClassifier, active: Iterable[int]) -> SetAccuracy:
        """Forget and retain accuracy when exactly the prompts at `active` are there."""
        kept = tuple(sorted(active))
        removed = complement(kept, model.num_classes)
        table = self.run(model, [kept], {})
        entry = subset_accuracies(table, self.labels, [removed], model.num_classes, self._total)
        return SetAccuracy(forget=entry.forget[0], retain=entry.retain[0])

    def run(
        self,
        model: PromptedClassifier,
        actives: Iterable[ActiveSet],
        drawn: Mapping[str, Draw],
        recorder: Recorder | None = None,
    ) -> Table:
        """Answers of the model for every sample under every active set and every drawn one."""
        distinct = list(dict.fromkeys(actives))
        return fill_table(
            model, self.samples, self.turns, distinct, drawn, seed=self.seed, check=self.check, recorder=recorder
        )

    def _total(self, counts: torch.Tensor) -> torch.Tensor:
        """Counts summed over the processes, as float64: a share of them is exact to its last printed digit."""
        return self.processes.reduce(counts.to(self.processes.device)).cpu().double()

    def _accuracies(self, answers: list[torch.Tensor]) -> list[float]:
        """Share of right answers, on samples of classes that are there, for each row of answers (N,)."""
        is_there = self.labels >= 0
        right = [((row == self.labels) & is_there).sum() for row in answers]
        counts = self._total(torch.stack([*right, is_there.sum()]))
        return (counts[:-1] / counts[-1]).tolist()

    def _largest_class(self) -> float:
        """Share of the samples, of classes that are there, that are of the class with most of them."""
        counts = torch.bincount(self.samples.labels[self.samples.labels >= 0])
        return float(counts.max() / counts.sum()) if len(counts) else 0.0

    def _unknown_shares(self, full_bank: torch.Tensor, own_removed: torch.Tensor) -> UnknownShares:
        is_there = self.labels >= 0
        unknown = [((row < 0) & is_there).sum() for row in (full_bank, own_removed)]
        counts = self._total(torch.stack([*unknown, is_there.sum()]))
        present, removed = (counts[:-1] / counts[-1]).tolist()
        return UnknownShares(class_present=present, class_removed=removed)


def make_evaluator(
    split: Split,
    positions: torch.Tensor,
    preprocess: Preprocess,
    processes: Processes,
    config: EvalConfig,
    *,
    seed: int,
) -> Evaluator:
    """An evaluator over a split.

    Args:
        positions: `label_positions` of the split's labels.
    """
    samples = Samples.of(split, positions, preprocess, processes.device)
    return Evaluator(samples, processes, batch_size=config.eval_batch_size, seed=seed)
