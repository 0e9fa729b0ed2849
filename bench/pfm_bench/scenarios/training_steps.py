"""The training steps that are timed: ours in each variant, and the plain one, of the same batches.

What changes how long a step takes is how many prompts a batch draws. That is drawn once a round, as
`pfm.training.shares` draws it, and is the same for every variant, so that each round is a fair pair. (The paper's tool
draws it apart for the two branches, from the same distribution.)
"""

import random
from dataclasses import replace

import torch
from torch import nn

from pfm.backbones.spec import BackboneSpec
from pfm.data.config import AugmentConfig, FeedConfig
from pfm.data.feed import Feed
from pfm.device import DeviceConfig, Processes, compile_module
from pfm.model.trunk_cache import cache_trunk
from pfm.model.views import StoredInputs
from pfm.training.batches import Examples, Loader
from pfm.training.config import ObjectiveConfig, OptimConfig
from pfm.training.launch import processes_of, start_accelerator
from pfm.training.objective import Objective
from pfm.training.optim import build_optimizer
from pfm.training.shares import draw_share
from pfm.training.step import training_step
from pfm_bench.measuring.ceilings import synchronise
from pfm_bench.targets.plain import build_plain_optimizer, choose_others, choose_with_own, plain_step
from pfm_bench.targets.workbench import (
    NUM_BATCHES,
    WARMUP_ROUNDS,
    Variant,
    Workbench,
    build_ours,
    build_plain,
    list_variants,
)


def list_training_variants(spec: BackboneSpec, *, compiled: bool = False) -> list[Variant]:
    """Those, half way up with the trunk at hand as well; and each compiled as well."""
    variants = list_variants(spec)
    variants += [replace(variant, is_cached=True) for variant in variants if variant.prompt_layer]
    if compiled:
        variants += [replace(variant, is_compiled=True) for variant in variants]
    return variants


class OurStep:
    """Images of a batch in, one step done: what `pfm.training.run` does, once a call."""

    def __init__(self, bench: Workbench, variant: Variant) -> None:
        self.bench = bench
        model = build_ours(bench, variant)
        self.model = model
        self.accelerator = start_accelerator(bench.device, DeviceConfig())
        processes = processes_of(self.accelerator)
        stored = StoredInputs(Feed(bench.split, bench.device, FeedConfig()), bench.preprocess)
        size = bench.config.batch_size
        tokens = None
        if variant.is_cached:
            tokens = cache_trunk(model, stored, "device", processes, batch_size=size, name="images")
        optimizer = build_optimizer(model, OptimConfig())
        if variant.is_compiled:
            compile_module(model)
        wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.wrapped: nn.Module = wrapped.train()
        self.objective = Objective(model, ObjectiveConfig())
        examples = Examples(
            labels=bench.split.labels, num_classes=model.num_classes, stored=stored, augment=AugmentConfig(),
            tokens=tokens,
        )  # fmt: skip
        self.loader = Loader(examples, processes, seed=bench.config.seed, global_batch=size, part_size=size)
        self.number = 0
        self.last_loss: torch.Tensor | None = None

    def __call__(self) -> None:
        (batch,) = self.loader.batches([(_draw_key(self.bench, self.number), _batch_index(self.bench, self.number))])
        numbers = training_step(self.wrapped, batch, self.objective, self.optimizer, self.accelerator)
        self.last_loss = numbers["loss"]
        self.number += 1
        synchronise(self.bench.device)


class PlainStep:
    """The same batch through the plain step.

    Args:
        is_bf16: under autocast, as a user would run it on a GPU.
    """

    def __init__(self, bench: Workbench, *, is_bf16: bool = False) -> None:
        self.bench = bench
        self.is_bf16 = is_bf16
        self.model = build_plain(bench).train()
        self.optimizer = build_plain_optimizer(self.model)
        self.dice = random.Random(bench.config.seed)
        self.drawn = [prompts_drawn(bench, number) for number in range(bench.config.rounds + WARMUP_ROUNDS)]
        self.number = 0
        self.last_loss: torch.Tensor | None = None

    def __call__(self) -> None:
        bench, num_classes = self.bench, self.model.num_classes
        mixed_size, wrong_size = self.drawn[self.number]
        index = _batch_index(bench, self.number)
        inputs = bench.preprocess(bench.split.inputs[index].to(bench.device))
        labels = bench.split.labels[index].to(bench.device)
        mixed = choose_with_own(labels, num_classes, mixed_size - 1, self.dice)
        wrong = choose_others(labels, num_classes, wrong_size, self.dice)
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=self.is_bf16):
            numbers = plain_step(self.model, self.optimizer, inputs, labels, mixed, wrong)
        self.last_loss = torch.tensor(numbers["loss"])
        self.number += 1
        synchronise(bench.device)


def take_each_kind_of_step(bench: Workbench, step: OurStep | PlainStep) -> None:
    """One step for each number of prompts that the rounds may draw, so that nothing is compiled or tuned in them."""
    kinds = {prompts_drawn(bench, number): number for number in range(bench.config.rounds + WARMUP_ROUNDS)}
    for number in kinds.values():
        step.number = number
        step()
    step.number = 0


def prompts_drawn(bench: Workbench, number: int) -> tuple[int, int]:
    """How many prompts a sample sees in the two branches of step `number`, as `pfm.training.shares` draws it."""
    one = torch.zeros(1, dtype=torch.int64)
    processes = Processes(device=bench.device)
    share = draw_share(one, one, bench.config.num_classes, key=_draw_key(bench, number), processes=processes)
    return share.mixed.shape[1], share.wrong.shape[1]


def _batch_index(bench: Workbench, number: int) -> torch.Tensor:
    size = bench.config.batch_size
    return torch.arange(size) + number % NUM_BATCHES * size


def _draw_key(bench: Workbench, number: int) -> tuple[int, ...]:
    return bench.config.seed, 0, number
