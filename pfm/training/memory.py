"""What fits into memory, and what is kept there: the size of a part of a batch, and a frozen trunk's tokens."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate.utils import find_executable_batch_size
from accelerate.utils.memory import should_reduce_batch_size

from pfm.data.feed import Feed
from pfm.device import Processes
from pfm.errors import TrainingError
from pfm.model.classifier import PromptedClassifier
from pfm.model.decoys import draw_decoys
from pfm.model.trunk_cache import TrunkCache, cache_trunk
from pfm.model.views import StoredInputs
from pfm.training.interrupt import StopRequest
from pfm.training.setup import Setup


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What a run holds besides its model.

    Attributes:
        part_size: examples that a process computes at once, at the most.
        train: the inputs of the training split.
        caches: the trunk's tokens by split, where they are kept.
    """

    part_size: int
    train: StoredInputs
    caches: dict[str, TrunkCache]


def prepare_memory(setup: Setup, stop: StopRequest) -> Memory:
    """Find what fits, and compute what is kept.

    Raises:
        TrainingError: not even one example fits.
    """
    train, device = setup.config.train, setup.processes.device
    stored = StoredInputs(Feed(setup.data.train, device, setup.config.feed), setup.preprocess)
    part_size = train.batch_size
    if train.auto_batch_size:
        part_size = largest_micro_batch(
            train.batch_size,
            lambda size: try_batch(setup.model, stored, setup.processes, setup.config.objective.decoys, size),
            stop,
        )
        if part_size < train.batch_size:
            setup.tell(f"a batch of {train.batch_size} does not fit into memory: computed {part_size} images at a time")
    where = setup.config.feed.cache_trunk
    caches: dict[str, TrunkCache] = {}
    for name, split in setup.data.splits() if where != "off" else ():
        if (name != "train" and not train.eval_every) or (name == "val" and not train.best_metric):
            continue
        caches[name] = cache_trunk(
            setup.model,
            stored if name == "train" else StoredInputs(Feed(split, device, setup.config.feed), setup.preprocess),
            where,
            setup.processes,
            batch_size=setup.config.evaluation.eval_batch_size,
            name=name,
            say=setup.tell,
        )
    return Memory(part_size=part_size, train=stored, caches=caches)


def try_batch(model: PromptedClassifier, stored: StoredInputs, processes: Processes, decoys: int, size: int) -> None:
    """Forward and backward of `size` examples with as many prompts and decoys as there can be; nothing is updated."""
    index = torch.arange(size) % len(stored)
    everyone = torch.arange(model.num_classes, device=processes.device).expand(size, -1)
    shape = model.decoys(decoys)
    drawn = None if shape is None else draw_decoys(shape, torch.Generator()).to(processes.device)
    model.train()
    try:
        with processes.autocast():
            with_own, without_own = model(stored(index), (everyone, everyone), decoys=drawn)
        (with_own.float().logsumexp(dim=1).sum() + without_own.float().logsumexp(dim=1).sum()).backward()
    finally:
        model.zero_grad(set_to_none=True)


def largest_micro_batch(batch_size: int, attempt: Callable[[int], None], stop: StopRequest) -> int:
    """The largest of `batch_size`, a half, a quarter … for which `attempt` fits into memory on every process.

    Accelerate's `find_executable_batch_size`, with one addition: an out-of-memory on one process is
    one on all, or the others would wait for it for ever.

    Raises:
        TrainingError: not even one example fits.
    """

    def try_size(size: int) -> int:
        failure: Exception | None = None
        try:
            attempt(size)
        except Exception as error:
            if not should_reduce_batch_size(error):
                raise
            failure = error
        if stop.highest(int(failure is not None)):
            raise failure or RuntimeError("CUDA out of memory. (on another process)")
        return size

    halves = [batch_size >> shift for shift in range(1, batch_size.bit_length() + 1)]  # the last is 0
    try:
        return find_executable_batch_size(try_size, batch_size, iter(halves).__next__)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise TrainingError(
            "not even one image fits into memory; choose a smaller backbone or --image_size, or give "
            "--gradient_checkpointing"
        ) from error
