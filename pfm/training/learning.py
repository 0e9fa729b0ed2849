"""Learning on: samples, groups and new classes are added to a solved readout, which becomes that of one fit on all."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from pfm.classes import ClassList, check_unknown
from pfm.data.splits import ClassificationData
from pfm.device import Processes
from pfm.errors import ConfigError
from pfm.model.checkpoint import Checkpoint
from pfm.model.extraction import extract, gathered_rows
from pfm.model.readouts import READOUTS
from pfm.model.readouts.ridge import memory_of, with_memory


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A readout that learned on.

    Attributes:
        num_samples: how many were added.
        new_classes: names of the classes that were not there before.
        repeated: how many of the samples had been there already, and count twice now.
    """

    checkpoint: Checkpoint
    num_samples: int
    new_classes: tuple[str, ...]
    repeated: int


def check_can_learn(checkpoint: Checkpoint) -> None:
    """Refuse what cannot learn on.

    Raises:
        ConfigError: another readout, or one that kept nothing to add to.
    """
    readout = checkpoint.model.readout
    if not READOUTS.get(readout).erasure_is_exact:
        raise ConfigError(
            f"--readout {readout} is trained step by step, its classes against each other, and cannot learn on from "
            "sums; `pfm train --resume` goes on with a run, and --readout ridge learns on"
        )
    if memory_of(checkpoint).keeps == "none":
        raise ConfigError("nothing was kept to add to (--memory none); fit again with --memory features or sums")


def learn_on(
    checkpoint: Checkpoint,
    data: ClassificationData,
    processes: Processes,
    say: Callable[[str], None] = lambda _: None,
) -> Learned:
    """Add the training split of a data set; its classes are matched by name.

    Raises:
        ConfigError: another readout, or one that kept nothing to add to.
        ClassNameError: a class is called as the answer `unknown` is.
    """
    check_can_learn(checkpoint)
    has_answer = checkpoint.unknown_below > 0 or checkpoint.model.abstain > 0
    check_unknown(ClassList.from_names(data.classes.names), has_answer=has_answer)
    memory = memory_of(checkpoint)
    model = checkpoint.build_model().to(processes.device)
    extracted = extract(model, data.train, checkpoint.preprocess, processes, key=memory.key)
    rows = gathered_rows(extracted, len(data.train), processes)
    repeated = 0
    if memory.rows is not None:
        known = {own.tobytes() for own in memory.rows.content_ids}
        repeated = sum(own.tobytes() in known for own in rows.content_ids)
        if repeated:
            say(f"note: {repeated:,} of the {len(rows):,} samples are stored already; they count twice from now on")
    larger = memory.with_rows(data.classes.names, rows, extracted.groups)
    new = tuple(name for name in larger.classes if name not in checkpoint.classes.names)
    return Learned(
        checkpoint=with_memory(_with_classes(checkpoint, new), larger),
        num_samples=len(rows),
        new_classes=new,
        repeated=repeated,
    )


def _with_classes(checkpoint: Checkpoint, new: tuple[str, ...]) -> Checkpoint:
    """The checkpoint with more classes; one that was erased comes back with its number. Rows are solved behind this."""
    gone = {name: number for number, name in checkpoint.erased}
    taken = {*checkpoint.classes.ids, *gone.values()}
    numbers = dict(zip(checkpoint.classes.names, checkpoint.classes.ids, strict=True))
    for name in new:
        number = gone[name] if name in gone else max(taken, default=-1) + 1
        numbers[name] = number
        taken.add(number)
    ordered = sorted(numbers, key=lambda name: numbers[name])
    prompts = checkpoint.tensors["bank.prompts"]
    return dataclasses.replace(
        checkpoint,
        classes=ClassList(tuple(numbers[name] for name in ordered), tuple(ordered)),
        erased=tuple(entry for entry in checkpoint.erased if entry[1] not in new),
        tensors={**checkpoint.tensors, "bank.prompts": prompts.new_zeros(len(ordered), *prompts.shape[1:])},
        progress={},
    )
