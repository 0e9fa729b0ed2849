"""Which class a model answers for each sample under each of many active sets, each set run once.

Everything that is reported of a model is a question to one such table. The processes share the batches out among
them. What is drawn for a batch depends on its place in the split and on the seed, so that the answers are the same
whatever the number of processes.

Letters: N samples of this process, C classes in the bank, B samples of a batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from pfm.device import Processes
from pfm.evaluation.samples import Samples
from pfm.evaluation.served import ActiveSet, Recorder
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import Draw, shared_set
from pfm.runlog import progress
from pfm.seeds import make_generator


@dataclass(frozen=True)
class Table:
    """Answers, as positions in the bank or -1, for this process's samples.

    Attributes:
        answers: (N,) by active set.
        drawn: (N,) by the name of a draw that differs from sample to sample.
        best_single: (N, C) largest logit of each class over the sets of one prompt.
    """

    answers: dict[ActiveSet, torch.Tensor]
    drawn: dict[str, torch.Tensor]
    best_single: torch.Tensor


class Turns:
    """This process's batches of a split, in as many turns as the process that has most of them.

    Attributes:
        own: (N,) which samples are this process's.
        processes: that share the batches.
    """

    def __init__(self, count: int, batch_size: int, processes: Processes) -> None:
        self.processes = processes
        batches = torch.arange(count).split(batch_size)
        self._batches = list(enumerate(batches))[processes.rank :: processes.world_size]
        self._count = -(-len(batches) // processes.world_size)
        self.own = torch.cat([*(index for _, index in self._batches), torch.empty(0, dtype=torch.int64)])

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor] | None]:
        """A batch's number in the split and its samples (B,); None where only others have one more."""
        yield from self._batches
        yield from [None] * (self._count - len(self._batches))


@torch.inference_mode()
def fill_table(
    model: PromptedClassifier,
    samples: Samples,
    turns: Turns,
    actives: Sequence[ActiveSet],
    drawn: Mapping[str, Draw],
    *,
    seed: int,
    check: Callable[[], None],
    recorder: Recorder | None = None,
) -> Table:
    """Run the model on every sample under every active set and every drawn one.

    Args:
        actives: sets that are the same for all samples, each given once.
        drawn: sets that differ from sample to sample, by name.
        check: called once a turn, equally often by every process; may end the work by raising.
        recorder: takes down the logits of all classes, and of all but one; the first is to come first.
    """
    processes = turns.processes
    was_training = model.training
    model.eval()
    answers: dict[ActiveSet, list[torch.Tensor]] = {active: [] for active in actives}
    by_draw: dict[str, list[torch.Tensor]] = {name: [] for name in drawn}
    best_single: list[torch.Tensor] = []
    total = len(turns.own) * (len(actives) + len(drawn))
    with processes.autocast(), progress(total, "evaluating", unit="img", is_main=processes.is_main) as bar:
        for turn in turns:
            check()
            if turn is None:
                continue
            number, index = turn
            views = samples.source.views(model, index)
            best: torch.Tensor | None = None
            for active in actives:
                logits = views.logits(shared_set(list(active), len(index), processes.device))
                answers[active].append(model.predict(logits))
                if recorder is not None:
                    recorder.see(active, logits, samples.labels[index])
                if len(active) == 1:
                    best = logits if best is None else torch.maximum(best, logits)
                bar.update(len(index))
            if best is not None:
                best_single.append(best)
            own = samples.labels[index].clamp_min(0)
            for name, draw in drawn.items():
                present = draw(own, model.num_classes, make_generator(seed, name, number))
                by_draw[name].append(model.predict(views.logits(present.to(processes.device))))
                bar.update(len(index))
    model.train(was_training)
    return Table(
        answers={active: _joined(parts) for active, parts in answers.items()},
        drawn={name: _joined(parts) for name, parts in by_draw.items()},
        best_single=torch.cat(best_single).cpu() if best_single else torch.empty(0, model.num_classes),
    )


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts).cpu() if parts else torch.empty(0, dtype=torch.int64)
