"""Epochs, cadence and saving, under one Accelerator."""

import dataclasses
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, set_seed

from pfm.augment import AugmentConfig, augment
from pfm.backbone import BackboneConfig, BackboneSpec, build_backbone, describe_backbone, fingerprint
from pfm.checkpoint import save_checkpoint, snapshot
from pfm.data import ClassificationData, DataConfig, load_data
from pfm.device import DeviceConfig
from pfm.draws import make_generator
from pfm.errors import ConfigError, TrainingError
from pfm.evaluation import EvalConfig, Evaluator, label_positions
from pfm.images import ImagePreprocess, measure_channels
from pfm.lora import LoraSettings
from pfm.model import ModelConfig, PromptedClassifier
from pfm.options import option
from pfm.runlog import RunLog, progress
from pfm.step import epoch_order, share, training_step
from pfm.storage import make_folder, write_json


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the model is optimised; the defaults are the paper's."""

    batch_size: int = option(32, "Images per step and process.", minimum=1)
    epochs: int = option(10, "Passes over the training split.", minimum=1)
    lr: float = option(1e-3, "Learning rate.", minimum=0.0)
    seed: int = option(42, "Seed of initial weights, order, draws and dropout.", minimum=0)
    optimizer: str = option("adam", "Optimizer.", choices=("adam", "adamw"))
    weight_decay: float = option(0.0, "Weight decay; decoupled with adamw.", minimum=0.0)
    schedule: str = option("constant", "Learning rate over the run.", choices=("constant", "cosine"))
    warmup: float = option(0.0, "Part of the run in which the learning rate rises linearly from 0.", minimum=0.0)
    eval_every: int = option(
        1, "Evaluate the inference modes after every n-th epoch, and after the last; 0: never.", minimum=0
    )
    save_every: int = option(
        1, "Write a checkpoint after every n-th epoch, and after the last; 0: only after the last.", minimum=0
    )
    log_every: int = option(10, "Write the losses to the log every n steps.", minimum=1)
    save_dir: str = option("checkpoints", "Folder for checkpoints, accuracies and the log.")

    def __post_init__(self) -> None:
        if self.warmup > 1:
            raise ConfigError(f"--warmup {self.warmup:g} is a part of the run; give a value from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run, whole."""

    data: DataConfig
    backbone: BackboneConfig
    model: ModelConfig
    lora: LoraSettings
    train: TrainConfig
    augment: AugmentConfig
    evaluation: EvalConfig
    device: DeviceConfig

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainResult:
    """Where a run left its last checkpoint, and its last figures."""

    checkpoint: Path
    modes: dict[str, float] | None
    seconds: float
    samples_per_s: float


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then constant or half a cosine."""
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def build_optimizer(model: PromptedClassifier, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained tensors; decay is for matrices only."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    trained = model.trained_tensors()
    decayed = [t for name, t in trained.items() if t.ndim > 1 and "embeddings" not in name and "bank" not in name]
    plain = [t for t in trained.values() if all(t is not other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return kind([group for group in groups if group["params"]], lr=config.lr, fused=True)


def build_model(
    spec: BackboneSpec, data: ClassificationData, config: RunConfig
) -> tuple[PromptedClassifier, LoraSettings | None, str]:
    """The model a run starts from, its adapters' settings, and the fingerprint of what stays frozen."""
    tune = config.model.resolve_tune(is_pretrained=spec.is_pretrained)
    backbone = build_backbone(spec, seed=config.train.seed)
    frozen = fingerprint(backbone) if tune == "lora" else ""
    lora = config.lora if tune == "lora" else None
    set_seed(config.train.seed)
    settings = dataclasses.replace(config.model, tune=tune)
    return PromptedClassifier(backbone, data.classes, settings, lora), lora, frozen


def start_accelerator(device: torch.device, config: DeviceConfig) -> Accelerator:
    """One Accelerator for a single process on `device`, or for whatever the launcher started."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        # a second run in this process may want another device or precision than the first
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda":
            os.environ["ACCELERATE_TORCH_DEVICE"] = str(device)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def train(config: RunConfig, device: torch.device, say: Callable[[str], None] = print) -> TrainResult:
    """Train, evaluate and save as the paper's tool does, under `config.train.save_dir`.

    Files: `<dataset>_seed_<seed>_<epoch>.pt` for each epoch (counted from 1),
    `<dataset>_seed_<seed>_accuracies.json` with {mode: [accuracy per epoch]} (null for an epoch that
    was not evaluated) and `<dataset>_seed_<seed>_log.jsonl`.

    Raises:
        PfmError: see `pfm.errors`; data, backbone and folder are checked before training starts.
    """
    started = time.monotonic()
    accelerator = start_accelerator(device, config.device)
    is_main = accelerator.is_main_process

    def tell(text: str) -> None:
        if is_main:
            say(text)

    spec = describe_backbone(config.backbone)
    with accelerator.main_process_first():  # one process downloads and decodes into the cache first
        data = load_data(config.data, image_size=spec.image_size)
    tell(data.describe())
    model, lora, frozen = build_model(spec, data, config)
    folder = make_folder(Path(config.train.save_dir))
    preprocess = spec.preprocess or _measured_preprocess(data, spec)
    tell(_describe_model(model, spec, accelerator))

    optimizer = build_optimizer(model, config.train)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    loop = _Loop(config, accelerator, data, preprocess, model, wrapped, optimizer)
    stem = folder / f"{data.name}_seed_{config.train.seed}"
    history: dict[str, list[float | None]] = {}
    modes: dict[str, float] | None = None
    path = stem
    rate = 0.0
    with RunLog(Path(f"{stem}_log.jsonl"), is_main=is_main) as log:
        log.write("start", config=config.to_dict(), device=str(accelerator.device), processes=accelerator.num_processes)
        for epoch in range(config.train.epochs):
            rate = loop.run_epoch(epoch, log)
            modes = loop.evaluate(epoch)
            is_last = epoch + 1 == config.train.epochs
            is_saved = is_last or _is_due(epoch, config.train.save_every)
            path = Path(f"{stem}_{epoch + 1}.pt")
            if is_saved and is_main:
                state = snapshot(
                    model,
                    spec=spec,
                    preprocess=preprocess,
                    lora=lora,
                    optimizer=optimizer.optimizer,
                    frozen_sha256=frozen,
                    seed=config.train.seed,
                    epoch=epoch + 1,
                    step=loop.step,
                    run=config.to_dict(),
                )
                save_checkpoint(path, state)
            if is_main:
                _record_modes(history, modes, epoch)
                if history:
                    write_json(Path(f"{stem}_accuracies.json"), history)
            saved = path.name if is_saved else None
            log.write("epoch", epoch=epoch + 1, samples_per_s=round(rate, 1), accuracies=modes, checkpoint=saved)
            tell(_epoch_line(epoch, config, loop.last_losses, rate, modes))
        accelerator.wait_for_everyone()
        seconds = time.monotonic() - started
        log.write("end", seconds=round(seconds, 2))
        tell(
            f"saved {path} ({seconds:.0f} s)\nnext: pfm eval --ckpt {path}   pfm export onnx --ckpt {path} --out bundle"
        )
    return TrainResult(checkpoint=path, modes=modes, seconds=seconds, samples_per_s=rate)


def _is_due(epoch: int, every: int) -> bool:
    """Whether the epoch (from 0) is one of every `every`-th; never where that is 0."""
    return every > 0 and (epoch + 1) % every == 0


def _measured_preprocess(data: ClassificationData, spec: BackboneSpec) -> ImagePreprocess:
    mean, std = measure_channels(data.train.images)
    return ImagePreprocess(size=spec.image_size, mean=mean, std=std)  # type: ignore[arg-type]


def _describe_model(model: PromptedClassifier, spec: BackboneSpec, accelerator: Accelerator) -> str:
    trained = sum(tensor.numel() for tensor in model.trained_tensors().values())
    total = sum(tensor.numel() for tensor in model.parameters())
    return (
        f"model {spec.model_name} at {spec.image_size} px, readout {model.config.readout}, tune {model.config.tune}: "
        f"{trained:,} of {total:,} parameters train; {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, precision {accelerator.mixed_precision}"
    )


def _record_modes(history: dict[str, list[float | None]], modes: dict[str, float] | None, epoch: int) -> None:
    if modes is not None:
        for name, accuracy in modes.items():
            history.setdefault(name, [None] * epoch).append(accuracy)
    else:
        for values in history.values():
            values.append(None)


def _epoch_line(
    epoch: int, config: RunConfig, losses: dict[str, float], rate: float, modes: dict[str, float] | None
) -> str:
    line = f"epoch {epoch + 1}/{config.train.epochs}  loss {losses['loss']:.4f} ({rate:.0f} samples/s)"
    if modes is not None:
        shown = ("full_bank", "match_only", "all_wrong", "none", "infer_best")
        line += "  " + "  ".join(f"{name} {100 * modes[name]:.1f}" for name in shown)
    return line


class _Loop:
    """The state that one epoch hands to the next."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        data: ClassificationData,
        preprocess: ImagePreprocess,
        model: PromptedClassifier,
        wrapped: torch.nn.Module,
        optimizer: Any,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.data = data
        self.preprocess = preprocess
        self.model = model
        self.wrapped = wrapped
        self.optimizer = optimizer
        self.positions = label_positions(model.classes, data.classes)
        self.step = 0
        self.last_losses: dict[str, float] = {}
        self.global_batch = config.train.batch_size * accelerator.num_processes
        self.total_steps = config.train.epochs * math.ceil(len(data.train) / self.global_batch)

    def run_epoch(self, epoch: int, log: RunLog) -> float:
        """Train on every example once; returns samples per second."""
        accelerator, train = self.accelerator, self.config.train
        split = self.data.train
        order = epoch_order(len(split), train.seed, epoch)
        self.wrapped.train()
        started = time.monotonic()
        totals: dict[str, torch.Tensor] = {}
        pending = 0
        with progress(len(split), f"epoch {epoch + 1}", unit="img", is_main=accelerator.is_main_process) as bar:
            for number, global_index in enumerate(order.split(self.global_batch)):
                batch = share(
                    global_index,
                    self.positions[split.labels[global_index]],
                    self.model.num_classes,
                    key=(train.seed, epoch, number),
                    rank=accelerator.process_index,
                    world_size=accelerator.num_processes,
                )
                images = split.images[batch.index].to(accelerator.device, non_blocking=True)
                noise = make_generator(train.seed, epoch, number, "augment", accelerator.process_index)
                inputs = self.preprocess(augment(images, self.config.augment, noise))
                labels = self.positions[split.labels[batch.index]].to(accelerator.device, non_blocking=True)
                rate = learning_rate(self.step, self.total_steps, train)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                numbers = training_step(
                    self.wrapped,
                    accelerator,
                    self.optimizer,
                    inputs,
                    labels,
                    batch,
                    has_unknown=self.model.has_unknown,
                )
                totals = {name: totals.get(name, 0) + value for name, value in numbers.items()}
                self.step += 1
                pending += 1
                bar.update(len(global_index))
                if pending == train.log_every or number + 1 == math.ceil(len(split) / self.global_batch):
                    self._log_losses(totals, pending, epoch, rate, log)
                    bar.set_postfix(loss=f"{self.last_losses['loss']:.4f}", refresh=False)
                    totals, pending = {}, 0
        return len(split) / (time.monotonic() - started)

    def _log_losses(self, totals: dict[str, torch.Tensor], count: int, epoch: int, rate: float, log: RunLog) -> None:
        """The only place where an epoch waits for the device."""
        names = list(totals)
        summed = self.accelerator.reduce(torch.stack([totals[name] for name in names]), reduction="sum")
        values: list[float] = (summed / count).tolist()  # type: ignore[union-attr, operator]
        self.last_losses = dict(zip(names, values, strict=True))
        log.write("step", step=self.step, epoch=epoch + 1, lr=rate, **self.last_losses)
        if not math.isfinite(self.last_losses["loss"]):
            saved = f"epoch {epoch} was saved" if epoch else "nothing was saved yet"
            raise TrainingError(
                f"the loss became {self.last_losses['loss']} at step {self.step} (epoch {epoch + 1}, "
                f"learning rate {rate:g}); {saved}. Lower --lr, or use --mixed_precision bf16 or no"
            )

    def evaluate(self, epoch: int) -> dict[str, float] | None:
        every = self.config.train.eval_every
        is_last = epoch + 1 == self.config.train.epochs
        if every == 0 or not (is_last or _is_due(epoch, every)):
            return None
        return self._evaluator().evaluate(self.model).modes

    def _evaluator(self) -> Evaluator:
        return make_evaluator(
            self.data,
            self.positions,
            self.preprocess,
            self.accelerator,
            self.config.evaluation,
            seed=self.config.train.seed,
        )


def make_evaluator(
    data: ClassificationData,
    positions: torch.Tensor,
    preprocess: ImagePreprocess,
    accelerator: Accelerator,
    config: EvalConfig,
    *,
    seed: int,
) -> Evaluator:
    """An evaluator over the test split that shares the samples out among the processes."""
    return Evaluator(
        data.test,
        positions,
        preprocess,
        device=accelerator.device,
        batch_size=config.eval_batch_size,
        seed=seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        reduce=lambda tensor: accelerator.reduce(tensor, reduction="sum"),  # type: ignore[return-value, arg-type]
        autocast=lambda: accelerator.autocast(),
        show_progress=accelerator.is_main_process,
    )
