"""Our training step in several variants beside the plain one, interleaved: `pfm bench train`.

Weights, images and labels are random, since none of them changes how long a step takes. What does
change it is how many prompts a batch draws: that is drawn once a round, as `pfm.training.shares` draws it, and
is the same for every variant, so that each round is a fair pair. (The paper's tool draws it apart
for the two branches, from the same distribution.)

Letters: B batch, N images, L the block before which the prompts enter, T tokens of the backbone, D hidden size.
"""

import functools
import io
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pfm.backbones.spec import BackboneSpec
from pfm.data.augmentation import AugmentConfig
from pfm.data.feed import Feed, FeedConfig
from pfm.device import DeviceConfig, Processes
from pfm.model.bank import PromptBank
from pfm.model.checkpoint import RunState, save_checkpoint, snapshot
from pfm.model.draws import others
from pfm.model.flops import step_flops
from pfm.model.trunk_cache import cache_trunk
from pfm.model.views import StoredInputs
from pfm.options import option
from pfm.runlog import progress
from pfm.seeds import make_generator
from pfm.training.batches import Examples, Loader
from pfm.training.launch import processes_of, start_accelerator
from pfm.training.objective import Objective, ObjectiveConfig
from pfm.training.optim import OptimConfig, build_optimizer
from pfm.training.shares import draw_share
from pfm.training.step import training_step
from pfm_bench.latency import Samples, gpu_peak_mib, matmul_ceiling, measure, peak_in_child, synchronise
from pfm_bench.reports.variants import variants_to_json
from pfm_bench.targets.plain import build_plain_optimizer, choose_others, choose_with_own, plain_step
from pfm_bench.targets.workbench import (
    HEAVY,
    LORA,
    NUM_BATCHES,
    PLAIN,
    WARMUP_ROUNDS,
    BenchConfig,
    Variant,
    Workbench,
    build_ours,
    build_plain,
    dtype_name,
    list_variants,
)

PROMPT_BATCH_SIZES = (32, 256)


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig(BenchConfig):
    """`pfm bench train`."""

    compile: bool = option(
        False, "Measure each of our variants compiled by torch.compile as well; minutes pass before the first round."
    )


def list_training_variants(spec: BackboneSpec, *, compiled: bool = False) -> list[Variant]:
    """Those, half way up with the trunk at hand as well; and each compiled as well."""
    variants = list_variants(spec)
    variants += [replace(variant, is_cached=True) for variant in variants if variant.prompt_layer]
    if compiled:
        variants += [replace(variant, is_compiled=True) for variant in variants]
    return variants


# --- the steps that are timed ---------------------------------------------------------------------


class OurStep:
    """Images of a batch in, one step done: what `pfm.training.run` does, once a call."""

    def __init__(self, bench: Workbench, variant: Variant) -> None:
        self.bench = bench
        model = build_ours(bench, variant)
        self.accelerator = start_accelerator(bench.device, DeviceConfig())
        processes = processes_of(self.accelerator)
        stored = StoredInputs(Feed(bench.split, bench.device, FeedConfig()), bench.preprocess)
        size = bench.config.batch_size
        tokens = None
        if variant.is_cached:
            tokens = cache_trunk(model, stored, "device", processes, batch_size=size, name="images")
        optimizer = build_optimizer(model, OptimConfig())
        if variant.is_compiled:
            model.compile(dynamic=True)
        wrapped, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.wrapped: nn.Module = wrapped.train()
        self.model = model
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
    """The same batch through the plain step."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.model = build_plain(bench).train()
        self.optimizer = build_plain_optimizer(self.model)
        self.dice = random.Random(bench.config.seed)
        self.drawn = [prompts_drawn(bench, number) for number in range(bench.config.rounds + WARMUP_ROUNDS)]
        self.number = 0
        self.last_loss = float("nan")

    def __call__(self) -> None:
        bench, num_classes = self.bench, self.model.num_classes
        mixed_size, wrong_size = self.drawn[self.number]
        index = _batch_index(bench, self.number)
        inputs = bench.preprocess(bench.split.inputs[index].to(bench.device))
        labels = bench.split.labels[index].to(bench.device)
        mixed = choose_with_own(labels, num_classes, mixed_size - 1, self.dice)
        wrong = choose_others(labels, num_classes, wrong_size, self.dice)
        self.last_loss = plain_step(self.model, self.optimizer, inputs, labels, mixed, wrong)["loss"]
        self.number += 1
        synchronise(bench.device)


def _batch_index(bench: Workbench, number: int) -> torch.Tensor:
    size = bench.config.batch_size
    return torch.arange(size) + number % NUM_BATCHES * size


def _draw_key(bench: Workbench, number: int) -> tuple[int, ...]:
    return bench.config.seed, 0, number


def prompts_drawn(bench: Workbench, number: int) -> tuple[int, int]:
    """How many prompts a sample sees in the two branches of step `number`, as `pfm.training.shares` draws it."""
    one = torch.zeros(1, dtype=torch.int64)
    processes = Processes(device=bench.device)
    share = draw_share(one, one, bench.config.num_classes, key=_draw_key(bench, number), processes=processes)
    return share.mixed.shape[1], share.wrong.shape[1]


# --- the measurement ------------------------------------------------------------------------------


def bench_training(bench: Workbench, *, compiled: bool = False) -> dict[str, Any]:
    """Measure every variant; `pfm_bench.reports.variants.variants_to_json` says what comes back.

    Args:
        compiled: measure the compiled variants too.
    """
    variants = {variant.name: variant for variant in list_training_variants(bench.spec, compiled=compiled)}
    if compiled:
        _allow_graphs(len(variants) * (bench.config.num_classes + 1))
    before = _ceilings(bench.device)  # first, since it makes what the libraries allocate once
    builders = {name: functools.partial(OurStep, bench, variant) for name, variant in variants.items()}
    steps: dict[str, PlainStep | OurStep] = {}
    peaks: dict[str, float] = {}
    for name, build in {PLAIN: functools.partial(PlainStep, bench), **builders}.items():
        base = torch.cuda.memory_allocated() if bench.device.type == "cuda" else 0
        steps[name] = build()
        if bench.device.type == "cuda":
            every_kind = functools.partial(take_each_kind_of_step, bench, steps[name])
            peaks[name] = gpu_peak_mib(bench.device, every_kind, base)
        elif bench.config.memory:
            peaks[name] = peak_in_child(build, calls=3, preload=(__name__, *HEAVY))
        if name in variants and variants[name].is_compiled:
            take_each_kind_of_step(bench, steps[name])
    config = bench.config
    with progress(config.rounds, "rounds", unit="round") as bar:
        samples = measure(
            steps, rounds=config.rounds, warmup_rounds=WARMUP_ROUNDS, budget_s=config.seconds, on_round=bar.update
        )
    ceilings = {dtype: max(value, before[dtype]) for dtype, value in _ceilings(bench.device).items()}
    plain, ours = steps[PLAIN], steps[Variant().name]
    assert isinstance(plain, PlainStep)
    assert isinstance(ours, OurStep)
    drawn = plain.drawn[WARMUP_ROUNDS : WARMUP_ROUNDS + samples.rounds]
    facts = {
        name: {
            **(variants[name].describe() if name in variants else {}),
            **_arithmetic(bench, samples, name, variants.get(name), drawn, ceilings),
            "peak_memory_mib": peaks.get(name),
            "last_loss": float(step.last_loss if step.last_loss is not None else "nan"),
        }
        for name, step in steps.items()
    }
    document = variants_to_json(
        samples,
        reference=PLAIN,
        images_per_call=config.batch_size,
        settings={
            **bench.settings(),
            "prompts_by_round": drawn,
            "matmul_ceiling_gflop_per_s": {dtype_name(dtype): value for dtype, value in ceilings.items()},
        },
        facts=facts,
    )
    return {**document, "prompt_building": bench_prompt_building(bench), "disk": disk_per_epoch(bench, ours, plain)}


def _allow_graphs(count: int) -> None:
    """Past its limit torch.compile runs a model eagerly; it counts the graphs of all models of a class together."""
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, count)


def _ceilings(device: torch.device) -> dict[torch.dtype, float]:
    return {dtype: matmul_ceiling(device, dtype) for dtype in (torch.float32, torch.bfloat16)}


def _arithmetic(
    bench: Workbench,
    samples: Samples[str],
    name: str,
    variant: Variant | None,
    drawn: list[tuple[int, int]],
    ceilings: dict[torch.dtype, float],
) -> dict[str, float]:
    """Operations of each round by our count, over its time."""
    count = functools.partial(step_flops, bench.spec, num_classes=bench.config.num_classes, rank=LORA.lora_r)
    if variant is None:
        counts = [count(pair, plain=True) for pair in drawn]
    else:
        counts = [count(pair, prompt_layer=variant.prompt_layer, cached=variant.is_cached) for pair in drawn]
    gflop = torch.tensor(counts) / 1e9
    rate = gflop * bench.config.batch_size * 1000 / torch.tensor(samples.latency_ms[name])
    ceiling = ceilings[torch.float32 if variant is None else variant.frozen]
    return {
        "gflop_per_image": float(gflop.mean()),
        "gflop_per_s": float(rate.quantile(0.5)),
        "share_of_ceiling": float(rate.quantile(0.5)) / ceiling,
    }


def take_each_kind_of_step(bench: Workbench, step: "PlainStep | OurStep") -> None:
    """One step for each number of prompts that the rounds may draw, so that nothing is compiled or tuned in them."""
    kinds = {prompts_drawn(bench, number): number for number in range(bench.config.rounds + WARMUP_ROUNDS)}
    for number in kinds.values():
        step.number = number
        step()
    step.number = 0


def bench_prompt_building(
    bench: Workbench, batch_sizes: Sequence[int] = PROMPT_BATCH_SIZES, rounds: int = 30
) -> list[dict[str, Any]]:
    """Choosing each sample's prompts (its own and half of the others) and laying them out as tokens."""
    num_classes, width = bench.config.num_classes, bench.spec.hidden_size
    size = num_classes // 2
    bank = PromptBank(num_classes, 1, width).to(bench.device)
    plain = build_plain(bench)
    dice, generator = random.Random(0), make_generator(0)
    result = []
    for batch_size in batch_sizes:
        labels = torch.randint(num_classes, (batch_size,), generator=make_generator(batch_size))
        on_device = labels.to(bench.device)

        def ours(labels: torch.Tensor = labels) -> None:
            present = torch.cat([labels[:, None], others(labels, num_classes, size, generator)], dim=1)
            bank.gather(present.to(bench.device))
            synchronise(bench.device)

        def in_a_loop(labels: torch.Tensor = on_device) -> None:
            plain.stack_prompts(choose_with_own(labels, num_classes, size, dice))
            synchronise(bench.device)

        samples = measure({"ours": ours, PLAIN: in_a_loop}, rounds=rounds, pause_ms=0)
        result.append(
            {
                "batch_size": batch_size,
                "prompts": 1 + size,
                "p50_ms": {name: samples.percentiles(name)["p50_ms"] for name in samples.latency_ms},
                "speed_to_plain": samples.speed("ours", PLAIN),
                "latency_ms": samples.latency_ms,
            }
        )
    return result


def disk_per_epoch(bench: Workbench, ours: OurStep, plain: PlainStep) -> dict[str, float]:
    """Bytes that one epoch leaves: our checkpoint with moments, and everything as the paper's tool saves it."""
    state = snapshot(
        ours.model,
        spec=bench.spec,
        preprocess=bench.preprocess,
        lora=LORA,
        optimizer=ours.optimizer.optimizer,
        frozen_sha256="0" * 64,
        state=RunState(epoch=1, step=ours.number),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ours.pt"
        save_checkpoint(path, state)
        own_bytes = path.stat().st_size
    buffer = io.BytesIO()
    content = {"model_state_dict": plain.model.state_dict(), "optimizer_state_dict": plain.optimizer.state_dict()}
    torch.save(content, buffer)
    whole_bytes = buffer.getbuffer().nbytes
    return {"ours_bytes": own_bytes, "plain_bytes": whole_bytes, "ratio": whole_bytes / own_bytes}


def describe_training(document: dict[str, Any]) -> str:
    """Prompt building, disk and ceilings, in lines."""
    lines = []
    for entry in document["prompt_building"]:
        speed, p50_ms = entry["speed_to_plain"]["wall"], entry["p50_ms"]
        lines.append(
            f"building {entry['prompts']} prompts a sample, batch {entry['batch_size']}: {p50_ms['ours']:.2f} ms, "
            f"plain {p50_ms[PLAIN]:.2f} ms, ×{speed['median']:.1f} ({speed['low']:.1f}–{speed['high']:.1f})"
        )
    disk = document["disk"]
    lines.append(
        f"on disk per epoch: {disk['ours_bytes'] / 2**20:.2f} MiB, plain {disk['plain_bytes'] / 2**20:.1f} MiB, "
        f"×{disk['ratio']:.0f} less"
    )
    ceilings = document["settings"]["matmul_ceiling_gflop_per_s"]
    shown = ", ".join(f"{value:.0f} GFLOP/s in {name}" for name, value in ceilings.items())
    return "\n".join([*lines, f"the most that a matrix product reached here: {shown}"])
