"""A fit in one pass: features to integers, integers to sums, sums to weights; no epochs, no steps.

The processes share the samples out, and their sums are added up exactly, so that the result does not depend on how many
there are.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pfm.data.config import AugmentConfig
from pfm.data.decoding import RANGE_OF_DATA
from pfm.data.room import size_text
from pfm.errors import ConfigError
from pfm.evaluation.evaluator import make_evaluator
from pfm.exact.ids import new_key
from pfm.exact.memory import FEW, Memory
from pfm.exact.recipe import Projection
from pfm.exact.sums import Ints64, num_packed
from pfm.model.checkpoint import Checkpoint, RunState, save_checkpoint, snapshot
from pfm.model.config import LoraSettings, StartConfig
from pfm.model.extraction import Extracted, extract, gathered_rows, reducing
from pfm.model.readouts.ridge import RIDGE, recipe_of, with_memory
from pfm.runlog import RunLog
from pfm.storage import write_json
from pfm.training.config import ObjectiveConfig, OptimConfig, RunConfig
from pfm.training.launch import leave
from pfm.training.procedures import TrainResult
from pfm.training.room import check_room
from pfm.training.saving import next_commands
from pfm.training.setup import Setup

SHOWN = ("full_bank", "all_wrong", "none", "infer_best")  # modes in the line that ends a fit
_OF_STEPS = (
    "epochs", "batch_size", "gradient_accumulation_steps", "auto_batch_size", "gradient_checkpointing", "compile",
    "log_every", "report_to", "save_every", "save_steps", "keep", "best_metric", "patience", "resume", "cache_trunk",
    "mixed_precision", "frozen_dtype", "wrong_target", "prompt_tokens", "prompt_layer",
)  # fmt: skip


class Fit:
    """Solves a readout that is a function of sums."""

    def check(self, config: RunConfig) -> None:
        """
        Raises:
            ConfigError: another precision than float32, or a state to go on from.
        """
        if config.device.mixed_precision != "no":
            raise ConfigError("--mixed_precision: exact features are computed in float32; leave it out")
        if config.data.depth == RANGE_OF_DATA:
            raise ConfigError(
                f"--depth {RANGE_OF_DATA} measures on samples that can go; name the window of levels, or leave it out"
            )
        if config.train.resume:
            raise ConfigError("--resume: a fit is one pass and has no state to go on from; leave it out")

    def unused(self) -> tuple[str, ...]:
        """All that is of steps."""
        parts = (OptimConfig, ObjectiveConfig, LoraSettings, AugmentConfig, StartConfig)
        return (*_OF_STEPS, *(field.name for part in parts for field in dataclasses.fields(part)))

    def plan(self, setup: Setup) -> None:
        """Say what is fitted and what is kept.

        Raises:
            ConfigError: memory is far from enough for it.
        """
        recipe = recipe_of(setup.model, {})
        count, classes = len(setup.data.train), len(setup.data.classes)
        sizes = {
            "features": count * (2 * recipe.size + 40),
            "sums": num_packed(recipe.width) * 8 * classes,
            "none": 0,
        }
        keeps = setup.config.model.memory
        # summed, one class's beside it, and solved whole: a square, its factor, and what the substitution copies
        solving = 2 * num_packed(recipe.width) * 8 + 3 * (recipe.width + 1) ** 2 * 8
        check_room(((f"--width {recipe.width}", solving), (f"--memory {keeps}", sizes[keeps])), torch.device("cpu"))
        splits = ", ".join(f"{len(split):,} {name}" for name, split in setup.data.splits())
        setup.tell(
            f"plan\n  recipe   {setup.config.recipe.describe()}\n  samples  {splits}\n"
            f"  fit      one pass: {recipe.size:,} integers a sample, projected to {recipe.width:,}\n"
            f"  memory   {keeps}: {sizes[keeps] / 2**20:,.1f} MiB are kept to forget with; solving takes about "
            f"{size_text(solving)}"
        )

    def run(self, setup: Setup, found: tuple[Path, Checkpoint] | None) -> TrainResult:
        """Fit, evaluate and save."""
        assert found is None, "see check"
        self.plan(setup)
        try:
            with RunLog(setup.files.log, is_main=setup.processes.is_main) as log:
                return _fit(setup, log)
        finally:
            leave(setup.accelerator)


FIT = Fit()


def _fit(setup: Setup, log: RunLog) -> TrainResult:
    started = time.monotonic()
    config, model, processes = setup.config, setup.model.to(setup.processes.device), setup.processes
    log.write("start", config=config.to_dict(), device=str(processes.device), processes=processes.world_size)
    features = {
        "kind": config.model.features,
        "tokens": config.model.feature_tokens,
        "final_norm": model.config.final_norm,
        "family": setup.spec.family.name,
        "backbone": setup.frozen_sha256,
        "input": dict(setup.preprocess.to_dict()),
    }
    recipe = recipe_of(model, features)
    recipe.check_count(len(setup.data.train))
    projection = Projection.draw(recipe, config.train.seed)
    head = {"ridge.projection": projection.matrix, "ridge.offset": projection.offset}
    model.load_state_dict({name: torch.from_numpy(values) for name, values in head.items()}, strict=False)
    extracted = extract(
        model, setup.data.train, setup.preprocess, processes, key=_shared_key(setup), feed=config.feed,
        labels=setup.labels,
    )  # fmt: skip
    extraction_s = time.monotonic() - started
    memory = summed_over(extracted, setup, Memory(
        recipe=recipe, projection=projection, classes=(), counts=(), hashes=(),
        stored_shape=tuple(setup.data.train.inputs.shape[1:]),
    ))  # fmt: skip
    checkpoint = snapshot(
        model, spec=setup.spec, preprocess=setup.preprocess, lora=None, frozen_sha256=setup.frozen_sha256,
        state=RunState(seed=config.train.seed, epoch=1, step=1, run=config.to_dict(), data_commit=setup.data.commit),
    )  # fmt: skip
    path = setup.files.epoch(1)
    if processes.is_main:
        checkpoint = with_memory(checkpoint, memory)
        with setup.files.writing():
            save_checkpoint(path, checkpoint)
    seconds = time.monotonic() - started
    rate = len(setup.data.train) / extraction_s
    _share_rows(setup, checkpoint)
    modes = _evaluate(setup) if config.train.eval_every else None
    facts = {
        "seconds": round(seconds, 3), "features_per_s": round(rate, 1), "clipped": extracted.clipped,
        "memory": memory.keeps, "memory_bytes": memory.size_bytes, "digest": memory.digest if processes.is_main else "",
    }  # fmt: skip
    if processes.is_main:
        with setup.files.writing():
            if modes is not None:
                write_json(setup.files.accuracies, {name: [accuracy] for name, accuracy in modes.items()})
            write_json(setup.files.summary, {
                "config": config.to_dict(), "device": str(processes.device), "processes": processes.world_size, **facts,
            })  # fmt: skip
    log.write("end", **facts, accuracies=modes)
    setup.tell(_described(path, memory, modes, seconds, rate, extracted.clipped))
    if setup.model.unknown_below:
        setup.tell(f"answers `unknown` below a largest probability of {setup.model.unknown_below:.3f}")
    return TrainResult(checkpoint=path, modes=modes, seconds=seconds, samples_per_s=rate)


def _shared_key(setup: Setup) -> bytes:
    """A new key, the same on every process."""
    own = torch.frombuffer(bytearray(new_key()), dtype=torch.uint8).to(torch.int32)
    own = own if setup.processes.is_main else torch.zeros_like(own)
    return bytes(setup.processes.reduce(own.to(setup.processes.device)).cpu().tolist())


def summed_over(extracted: Extracted, setup: Setup, blank: Memory) -> Memory:
    """The memory of all processes' samples, as much of it kept as was asked for; whole on the main process only.

    Args:
        blank: with the recipe and the projection.
    """
    keeps, processes = setup.config.model.memory, setup.processes
    names, own = setup.model.classes.names, extracted.rows
    ordered = sorted(names)
    counts = np.bincount(setup.labels.numpy(), minlength=len(names))
    local = dataclasses.replace(blank, classes=names, counts=(0,) * len(names), hashes=("",) * len(names), rows=own)
    total = reducing(processes)
    kept: dict[str, Ints64] = {}

    def sums() -> Iterator[Ints64]:
        for name in ordered:
            summed = total(local.sums_of_rows(name))
            if keeps == "sums":
                kept[name] = summed
            yield summed

    rows, groups, key = None, (), b""
    if keeps == "features":
        rows, groups, key = gathered_rows(extracted, len(setup.labels), processes), extracted.groups, extracted.key
        place = np.array([ordered.index(name) for name in names], np.int32)
        rows = dataclasses.replace(rows, labels=place[rows.labels])
        if not processes.is_main:
            rows = None
    else:
        size = num_packed(blank.recipe.width) * 8 * len(names)
        setup.tell(f"--memory {keeps}: the sums of {len(names)} classes are {size / 2**20:,.0f} MiB")
    ready = dataclasses.replace(
        blank,
        classes=tuple(ordered),
        counts=tuple(int(counts[names.index(name)]) for name in ordered),
        hashes=("",) * len(ordered),
        rows=None if rows is None else rows.in_order(),
        groups=groups,
        key=key,
    )
    if processes.is_main:
        made = ready.summed(sums())
        return dataclasses.replace(made, sums=kept if keeps == "sums" else None)
    for _ in sums():  # as often as the main process
        pass
    return ready


def _share_rows(setup: Setup, checkpoint: Checkpoint) -> None:
    """Give every process's model the rows that the main process solved, and the threshold."""
    for name in RIDGE.class_rows:
        parameter = setup.model.get_parameter(name)
        own = checkpoint.tensors[name].to(parameter.device)
        own = own if setup.processes.is_main else torch.zeros_like(own)
        with torch.no_grad():
            parameter.copy_(setup.processes.reduce(own))
    below = torch.tensor([checkpoint.unknown_below if setup.processes.is_main else 0.0], dtype=torch.float64)
    setup.model.unknown_below = float(setup.processes.reduce(below.to(setup.processes.device)))


def _evaluate(setup: Setup) -> dict[str, float]:
    config = setup.config
    evaluator = make_evaluator(
        setup.data.test, setup.positions, setup.preprocess, setup.processes, config.evaluation, seed=config.train.seed
    )
    return evaluator.evaluate(setup.model).modes


def _described(
    path: Path, memory: Memory, modes: dict[str, float] | None, seconds: float, rate: float, clipped: float
) -> str:
    lines = [f"solved in {seconds:.1f} s ({rate:,.0f} samples/s), {clipped:.2%} of the feature integers clipped"]
    if modes is not None:
        lines.append("  " + "  ".join(f"{name} {100 * modes[name]:.1f}" for name in SHOWN))
    lines.append(f"digest {memory.digest}")
    lines += remarks(memory)
    lines += [f"saved {path}", next_commands(path)]
    return "\n".join(lines)


def remarks(memory: Memory) -> list[str]:
    """What a user has to know of what is kept."""
    size = f"{memory.size_bytes / 2**20:,.1f} MiB"
    if memory.keeps == "features":
        return [
            f"memory: {len(memory.rows or ()):,} samples as integers, {size}; they are personal data (raw features are "
            "small pictures), so that only you may read the file"
        ]
    if memory.keeps == "sums":
        lines = [f"memory: a matrix a class, {size}; the difference of two copies of the file shows what left"]
        few = memory.few()
        if few:
            lines.append(
                f"warning: below {FEW} samples a class's matrix nearly is its samples: {', '.join(few[:10])}"
                + (f" and {len(few) - 10} more" if len(few) > 10 else "")
            )
        return lines
    return ["memory: none; this model can drop a class's row, and will never forget exactly"]
