"""From the examples of an epoch to batches that a step takes as they are.

Here meet, and nowhere else, the order of the examples, the draw of their prompts, the feed, augmentation,
preprocessing and what a frozen trunk has made of the inputs already. The inputs of a step come in parts, each made
when it is asked for, so that memory does not grow with the batch.

Letters: N examples, C classes in the bank, B examples of this process in a step, b of them in a part.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pfm.data.augmentation import Augmentation
from pfm.data.config import AugmentConfig
from pfm.device import Processes
from pfm.model.decoys import Decoys, draw_decoys
from pfm.model.trunk_cache import TrunkCache
from pfm.model.views import StoredInputs
from pfm.seeds import make_generator
from pfm.training.shares import balanced_order, draw_share, epoch_order, own_rows

Key = tuple[int, ...]  # (seed, epoch, step)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What is trained on.

    Attributes:
        labels: (N,) positions in the bank.
        num_classes: C.
        stored: the inputs.
        augment: how they are varied.
        tokens: what the frozen trunk makes of each input, where that is kept; the inputs are not touched then.
        draw_weights: (C,) how often an example of each class is drawn; None takes each example once an epoch.
        is_nested: both branches see the same others; see `branch_subsets`.
        decoys: (d, m, D) of the prompts of no class that each step shows; None shows none.
    """

    labels: torch.Tensor
    num_classes: int
    stored: StoredInputs
    augment: AugmentConfig
    tokens: TrunkCache | None = None
    draw_weights: torch.Tensor | None = None
    is_nested: bool = False
    decoys: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Part:
    """Some examples of a batch, on the device, ready for the model.

    Attributes:
        inputs: (b, …) model input, or the trunk's tokens (b, T, D) where `from_tokens` is set.
        labels: (b,) positions in the bank.
        presents: (b, 1 + s) and (b, s′) the prompts that each example sees in the two branches.
        row_keys: (2, b) int32, of the dropout masks in the two branches.
        mean_shares: (b,) of each example in the mean over the global batch.
        decoys: prompts of no class, the same for all examples of the step.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    presents: tuple[torch.Tensor, torch.Tensor]
    row_keys: torch.Tensor
    mean_shares: torch.Tensor
    from_tokens: bool
    decoys: Decoys | None = None


class Loader:
    """Yields the batches of an epoch, each process its share.

    Args:
        global_batch: examples of a step over all processes.
        part_size: at most so many examples of this process are made ready at a time.
    """

    def __init__(
        self, examples: Examples, processes: Processes, *, seed: int, global_batch: int, part_size: int
    ) -> None:
        self.examples = examples
        self.processes = processes
        self.seed = seed
        self.global_batch = global_batch
        self.part_size = part_size

    @property
    def num_batches(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.examples.labels) // self.global_batch)

    def epoch(self, epoch: int, first: int = 0) -> "Iterator[Batch]":
        """The batches of an epoch (from 0), from number `first` on; those before it are not touched."""
        labels, weights = self.examples.labels, self.examples.draw_weights
        if weights is None:
            order = epoch_order(len(labels), self.seed, epoch)
        else:
            order = balanced_order(labels, weights, self.seed, epoch)
        steps = enumerate(order.split(self.global_batch))
        return self.batches([((self.seed, epoch, number), index) for number, index in steps if number >= first])

    def batches(self, steps: Sequence[tuple[Key, torch.Tensor]]) -> "Iterator[Batch]":
        """Batches of given examples.

        Args:
            steps: for each batch the key that its draws are derived from, such as (seed, epoch, step), and which
                examples (G,) the global batch has.
        """
        rank, world_size = self.processes.rank, self.processes.world_size
        own = [index[own_rows(len(index), rank, world_size)[0]] for _, index in steps]
        inputs = self._inputs([part for index in own for part in index.split(self.part_size)])
        for key, index in steps:
            yield Batch(self, key, index, inputs)

    def _inputs(self, indices: list[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Stored inputs of one part after another, gathered ahead where that takes time; or the trunk's tokens."""
        if self.examples.tokens is not None:
            return map(self.examples.tokens, indices)
        return self.examples.stored.feed.batches(indices)


class Batch:
    """One step's examples of this process; iterated once, before the next batch is asked for.

    Args:
        loader: that it comes from.
        global_index: (G,) the examples of all processes.
        inputs: of this batch's parts and those after it.

    Attributes:
        share: which examples, and what was drawn for them.
        count: examples of all processes, G.
        num_parts: how many parts there will be, the same on every process.
        torch_seed: of whatever torch itself may draw in this step, such as a plugin's own dropout.
        waited_s: seconds that the step waited for stored inputs, so far.
    """

    def __init__(self, loader: Loader, key: Key, global_index: torch.Tensor, inputs: Iterator[torch.Tensor]) -> None:
        self.key = key
        self.count = len(global_index)
        self.share = draw_share(
            global_index,
            loader.examples.labels[global_index],
            loader.examples.num_classes,
            key=key,
            processes=loader.processes,
            is_nested=loader.examples.is_nested,
        )
        self.num_parts = -(-len(self.share) // loader.part_size)
        self.torch_seed = make_generator(*key, "torch", loader.processes.rank).initial_seed()
        self.waited_s = 0.0
        self._loader = loader
        self._inputs = inputs

    def __iter__(self) -> Iterator[Part]:
        examples, size, share = self._loader.examples, self._loader.part_size, self.share
        labels, mean_shares, mixed, wrong, row_keys = (
            value.to(self._loader.processes.device, non_blocking=True)
            for value in (examples.labels[share.index], share.mean_shares, share.mixed, share.wrong, share.row_keys)
        )
        from_tokens = examples.tokens is not None
        augmentation = None
        if not from_tokens:
            generator = make_generator(*self.key, "augment")
            augmentation = examples.stored.preprocess.draw_augmentation(self.count, examples.augment, generator)
        decoys = None
        if examples.decoys is not None:
            decoys = draw_decoys(examples.decoys, make_generator(*self.key, "decoys"))
            decoys = decoys.to(self._loader.processes.device)
        for start in range(0, len(share), size):
            rows = slice(start, start + size)
            inputs = self._make(augmentation, rows)
            presents = mixed[rows], wrong[rows]
            yield Part(inputs, labels[rows], presents, row_keys[:, rows], mean_shares[rows], from_tokens, decoys)

    def _make(self, augmentation: Augmentation | None, rows: slice) -> torch.Tensor:
        """The next part's inputs (b, …)."""
        started = time.perf_counter()
        inputs = next(self._inputs)
        if augmentation is not None:
            inputs = augmentation.rows(self.share.rows[rows])(inputs)
        self.waited_s += time.perf_counter() - started
        return inputs if augmentation is None else self._loader.examples.stored.preprocess(inputs)
