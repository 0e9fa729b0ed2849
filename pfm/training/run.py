"""A training run: epochs, evaluation, saving, stopping and going on, under one Accelerator."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.data.feed import Feed, FeedConfig
from pfm.data.image_augmentation import Augmentation, draw_augmentation
from pfm.data.images import ImagePreprocess, measure_channels
from pfm.data.inputs import Preprocess
from pfm.data.loading import load_data
from pfm.data.sound_augmentation import SoundAugmentation, draw_sound_augmentation
from pfm.data.sounds import SoundPreprocess, SoundStorage, measure_features
from pfm.data.splits import ClassificationData, Split
from pfm.errors import CheckpointError, ConfigError, StoppedError, TrainingError
from pfm.evaluation.evaluator import EvalConfig, Evaluator, label_positions
from pfm.model.abstention import choose_threshold, hold_out
from pfm.model.checkpoint import Checkpoint, RunState, save_checkpoint, snapshot
from pfm.model.classifier import PromptedClassifier
from pfm.model.flops import StepWork, step_flops
from pfm.model.lora import LoraSettings
from pfm.model.sharding import is_sharded, shared_out, whole
from pfm.model.trunk_cache import TrunkCache, cache_trunk, check_cache
from pfm.runlog import RunLog, progress
from pfm.seeds import make_generator
from pfm.storage import make_folder, write_json
from pfm.training.config import RunConfig
from pfm.training.interrupt import StopRequest
from pfm.training.launch import hint_at_launcher, largest_micro_batch, split_trackers, start_accelerator, tracking
from pfm.training.objective import Objective, class_weights
from pfm.training.optim import Average, build_optimizer, learning_rate
from pfm.training.saving import RunFiles, check_same_run, find_state, fingerprint_labels
from pfm.training.step import balanced_order, epoch_order, own_rows, share, training_step
from pfm.training.throughput import Meter


@dataclass(frozen=True)
class TrainResult:
    """Where a run left its last checkpoint, and its last figures."""

    checkpoint: Path
    modes: dict[str, float] | None
    seconds: float
    samples_per_s: float


def build_model(
    spec: BackboneSpec, data: ClassificationData, config: RunConfig
) -> tuple[PromptedClassifier, LoraSettings | None, str]:
    """The model a run starts from, its adapters' settings, and the SHA-256 of what stays frozen."""
    tune = config.model.resolve_tune(is_pretrained=spec.is_pretrained)
    backbone = build_backbone(spec, seed=config.train.seed)
    frozen = "" if tune == "full" else frozen_sha256(backbone)
    lora = config.lora if tune == "lora" else None
    set_seed(config.train.seed)
    settings = dataclasses.replace(config.model, tune=tune)
    model = PromptedClassifier(backbone, data.classes, settings, lora)
    backbone.recompute = config.train.gradient_checkpointing
    if lora is not None and config.device.stores_frozen_in_bf16:
        model.store_frozen(torch.bfloat16)
    return model, lora, frozen


def train(
    config: RunConfig,
    device: torch.device,
    say: Callable[[str], None] = print,
    *,
    data: ClassificationData | None = None,
) -> TrainResult:
    """Train, evaluate and save as the paper's tool does, under `config.train.save_dir`.

    Files: `<dataset>_seed_<seed>_<epoch>.pt` for each epoch (counted from 1),
    `<dataset>_seed_<seed>_accuracies.json` with {mode: [accuracy per epoch]} (null for an epoch that
    was not evaluated), `<dataset>_seed_<seed>_log.jsonl`, and `<dataset>_seed_<seed>_run.json` with
    the configuration and the rates of each epoch.

    Args:
        data: what to train on instead of what `config.data` names; a part of it, such as without a class.

    Raises:
        PfmError: see `pfm.errors`; data, backbone and folder are checked before training starts.
        StoppedError: a signal ended the run; it was saved.
    """
    trackers = split_trackers(config.train.report_to)
    accelerator = start_accelerator(device, config.device, trackers=trackers, project_dir=config.train.save_dir)

    def tell(text: str) -> None:
        if accelerator.is_main_process:
            say(text)

    hint_at_launcher(tell)
    spec = describe_backbone(config.backbone)
    config.augment.check_kind(is_audio=isinstance(spec.storage, SoundStorage))
    with accelerator.main_process_first():  # one process downloads and decodes into the cache first
        data = data or load_data(config.data, spec.storage, device=accelerator.device)
        data = hold_out(data, config.model.abstain)
    tell(data.describe())
    files = RunFiles(make_folder(Path(config.train.save_dir)), f"{data.name}_seed_{config.train.seed}")
    if accelerator.is_main_process:
        files.sweep()
    found = find_state(config.train.resume, files, tell)
    model, lora, frozen = build_model(spec, data, config)
    _check_metric(config.train.best_metric, model)
    preprocess = spec.preprocess or _measured_preprocess(data, spec)
    is_cropped = isinstance(preprocess, SoundPreprocess) and data.train.inputs.shape[1] > preprocess.max_length
    check_cache(config.feed, model, is_augmented=config.augment.is_on or is_cropped)
    tell(_describe_model(model, spec, accelerator))

    run = _Run(config, accelerator, data, spec, preprocess, model, lora, frozen, files, tell)
    if found is not None:
        run.restore(*found)
    with (
        RunLog(files.log, is_main=accelerator.is_main_process) as log,
        tracking(accelerator, "pfm", config.to_dict()),
        StopRequest() as stop,
    ):
        return run.go(log, stop)


def _check_metric(metric: str, model: PromptedClassifier) -> None:
    number = metric.removeprefix("class_")
    if number != metric and int(number) not in model.classes.ids:
        raise ConfigError(f"--best_metric {metric}: the classes are {model.classes.describe()}")


def _check_sharded(config: RunConfig, model: PromptedClassifier) -> None:
    """Refuse what does not go with FSDP.

    Raises:
        ConfigError: which option, and what to do instead.
    """
    if model.trunk_is_frozen:
        raise ConfigError(
            "FSDP shares out what trains, which is next to nothing with --tune lora; launch with gpu_8.yaml, or give "
            "--tune full"
        )
    if config.train.auto_batch_size:
        raise ConfigError(
            "--auto_batch_size does not go with FSDP, where a process that runs out of memory leaves the others "
            "waiting inside its blocks; give a smaller --batch_size and --gradient_accumulation_steps"
        )
    if config.train.compile:
        raise ConfigError("--compile does not go with FSDP; leave it out")
    if config.model.abstain:
        raise ConfigError("--abstain does not go with FSDP yet; leave it out")


def _is_due(number: int, every: int) -> bool:
    """Whether the epoch or step (from 0) is one of every `every`-th; never where that is 0."""
    return every > 0 and (number + 1) % every == 0


def _measured_preprocess(data: ClassificationData, spec: BackboneSpec) -> Preprocess:
    """Mean and standard deviation of the training data, for a backbone that was trained on none."""
    if isinstance(spec.storage, SoundStorage):
        mean, std = measure_features(data.train.inputs)
        return SoundPreprocess(
            max_length=spec.input_shape[0],
            mean=mean,
            std=std,
            sampling_rate=spec.storage.sampling_rate,
            num_mel_bins=spec.storage.num_mel_bins,
        )
    means, stds = measure_channels(data.train.inputs)
    return ImagePreprocess(size=spec.input_shape[-1], mean=means, std=stds)  # type: ignore[arg-type]


def _describe_model(model: PromptedClassifier, spec: BackboneSpec, accelerator: Accelerator) -> str:
    trained = sum(tensor.numel() for tensor in model.trained_tensors().values())
    total = sum(tensor.numel() for tensor in model.parameters())
    size = spec.describe_size()
    return (
        f"model {spec.model_name} at {size}, readout {model.config.readout}, tune {model.config.tune}: "
        f"{trained:,} of {total:,} parameters train; {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, precision {accelerator.mixed_precision}"
    )


@dataclass
class _Position:
    """Where a run stands; saved with every checkpoint.

    Attributes:
        epoch, batch: what comes next, counted from 0; `batch` may be one past the last of its epoch,
            which then is still to be evaluated.
        step: optimizer steps taken.
        history: accuracies by inference mode, one per finished epoch.
        best: the best value of --best_metric so far, None before the first.
        stale: evaluations since then.
        is_over: nothing is left to do, since --patience ran out.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    history: dict[str, list[float | None]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    best: float | None = None
    stale: int = 0
    is_over: bool = False

    def record(self, modes: dict[str, float] | None) -> None:
        """Add an epoch's accuracies; null where it was not evaluated."""
        if modes is None:
            for values in self.history.values():
                values.append(None)
        else:
            for name, accuracy in modes.items():
                self.history.setdefault(name, [None] * self.epoch).append(accuracy)


class _Run:
    """One run and what it holds."""

    def __init__(
        self,
        config: RunConfig,
        accelerator: Accelerator,
        data: ClassificationData,
        spec: BackboneSpec,
        preprocess: Preprocess,
        model: PromptedClassifier,
        lora: LoraSettings | None,
        frozen_sha256: str,
        files: RunFiles,
        tell: Callable[[str], None],
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.data = data
        self.spec = spec
        self.preprocess = preprocess
        self.model = model
        self.lora = lora
        self.frozen_sha256 = frozen_sha256
        self.files = files
        self.tell = tell
        self.at = _Position()
        self.positions = label_positions(model.classes, data.classes)
        self.labels = self.positions[data.train.labels]  # (N,) in the bank
        self.global_batch = (
            config.train.batch_size * config.train.gradient_accumulation_steps * accelerator.num_processes
        )
        self.num_batches = math.ceil(len(data.train) / self.global_batch)
        self.micro_batch = config.train.batch_size
        weights = class_weights(self.labels, model.num_classes)
        self.loss_weights = weights if config.objective.balance == "weights" else None
        self.draw_weights = weights if config.objective.balance == "sampling" else None

        if config.train.compile:
            model.compile(dynamic=True)
        optimizer = build_optimizer(model, config.train)
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        if is_sharded(model):
            _check_sharded(config, model)
        self.objective = Objective(model, config.objective)
        self.average = Average(model, config.train.ema) if config.train.ema else None
        self.feed = Feed(data.train, accelerator.device, config.feed)
        self.caches: dict[str, TrunkCache] = {}
        self.meter = Meter(accelerator.device, accelerator.num_processes, self._flops_per_sample())
        self.epoch_figures: list[dict[str, Any]] = []
        self.last_saved: Path | None = None

    def _flops_per_sample(self) -> float:
        tokens, classes = self.model.config.prompt_tokens, self.model.num_classes
        present, absent = tokens * (classes + 1) / 2, tokens * (classes - 1) / 2  # on average
        work = StepWork(
            prompts=(present, absent),
            num_scores=len(self.model.readout.weights(self.model)[0]),
            rank=self.lora.lora_r if self.lora else 0,
            prompt_layer=self.model.config.prompt_layer,
            is_cached=self.config.feed.cache_trunk != "off",
            is_frozen=self.model.trunk_is_frozen,
        )
        return step_flops(self.spec, work)

    # --- the run ---

    def go(self, log: RunLog, stop: StopRequest) -> TrainResult:
        """Train what is left, epoch by epoch."""
        started = time.monotonic()
        train = self.config.train
        event = "resume" if self.at.step else "start"
        log.write(
            event,
            step=self.at.step,
            config=self.config.to_dict(),
            device=str(self.accelerator.device),
            processes=self.accelerator.num_processes,
        )
        if self.at.epoch < train.epochs and not self.at.is_over:
            self._prepare_memory(stop)
        modes: dict[str, float] | None = None
        rate = 0.0
        while self.at.epoch < train.epochs and not self.at.is_over:
            epoch = self.at.epoch
            self._run_epoch(log, stop)
            figures = self.meter.figures()
            rate = figures["samples_per_s"]
            modes = self._evaluate(stop, log, self.data.test, "test") if self._is_evaluated(epoch) else None
            is_best = self._judge(modes, stop, log)
            self.at.record(modes)
            self.at.epoch, self.at.batch = epoch + 1, 0
            is_last = self.at.epoch == train.epochs or self.at.is_over
            path = self.files.epoch(self.at.epoch)
            is_saved = is_last or _is_due(epoch, train.save_every)
            if is_best:
                self._save(self.files.best)
            if is_saved:
                self._save(path)
                self.last_saved = path
            if self.accelerator.is_main_process:
                if is_saved:
                    self.files.state.unlink(missing_ok=True)
                    self.files.prune(train.keep)
                if self.at.history:
                    write_json(self.files.accuracies, self.at.history)
            saved = path.name if is_saved else None
            log.write("epoch", epoch=self.at.epoch, **figures, accuracies=modes, checkpoint=saved, is_best=is_best)
            self._track({f"accuracy/{name}": value for name, value in (modes or {}).items()})
            self.epoch_figures.append({"epoch": self.at.epoch, **figures})
            self.tell(_epoch_line(self.at, train.epochs, rate, modes))
        return self._finish(log, modes, rate, time.monotonic() - started)

    def _finish(self, log: RunLog, modes: dict[str, float] | None, rate: float, seconds: float) -> TrainResult:
        path = self.files.epoch(self.at.epoch)
        if not self.epoch_figures:
            self.tell("nothing is left to train")
        elif self.at.is_over:
            self.tell(
                f"stopped early: --best_metric {self.config.train.best_metric} has not risen for {self.at.stale} "
                f"evaluations; the best epoch is in {self.files.best}"
            )
        self.accelerator.wait_for_everyone()
        log.write("end", seconds=round(seconds, 2))
        if self.accelerator.is_main_process and self.epoch_figures:
            write_json(
                Path(f"{self.files.folder / self.files.stem}_run.json"),
                {
                    "config": self.config.to_dict(),
                    "device": str(self.accelerator.device),
                    "processes": self.accelerator.num_processes,
                    "seconds": round(seconds, 2),
                    "flops_per_sample": self.meter.flops_per_sample,
                    "epochs": self.epoch_figures,
                },
            )
        self.tell(
            f"saved {path} ({seconds:.0f} s)\nnext: pfm eval --ckpt {path}   pfm export onnx --ckpt {path} --out bundle"
        )
        return TrainResult(checkpoint=path, modes=modes, seconds=seconds, samples_per_s=rate)

    def _run_epoch(self, log: RunLog, stop: StopRequest) -> None:
        """Train on every example once, from where the run stands."""
        accelerator, train, seed = self.accelerator, self.config.train, self.config.train.seed
        epoch, world_size = self.at.epoch, accelerator.num_processes
        if self.draw_weights is None:
            order = epoch_order(len(self.labels), seed, epoch)
        else:
            order = balanced_order(self.labels, self.draw_weights, seed, epoch)
        batches = list(order.split(self.global_batch))[self.at.batch :]
        rows = [own_rows(len(batch), accelerator.process_index, world_size)[0] for batch in batches]
        cache = self.caches.get("train")
        images = iter(()) if cache else self.feed.batches([b[r] for b, r in zip(batches, rows, strict=True)])
        total_steps = train.epochs * self.num_batches
        self.wrapped.train()
        self.meter.start()
        totals: dict[str, torch.Tensor] = {}
        pending = 0
        is_main = accelerator.is_main_process
        with progress(len(order), f"epoch {epoch + 1}", unit="img", is_main=is_main) as bar:
            bar.update(min(self.at.batch * self.global_batch, len(order)))
            for global_index, own in zip(batches, rows, strict=True):
                key = (seed, epoch, self.at.batch)
                batch = share(
                    global_index,
                    self.labels[global_index],
                    self.model.num_classes,
                    key=key,
                    rank=accelerator.process_index,
                    world_size=world_size,
                    weights=self.loss_weights,
                )
                waited = time.perf_counter()
                # `inputs` is used in this very iteration
                if cache:
                    inputs: Callable[[slice], torch.Tensor] = lambda part: cache(batch.index[part])  # noqa: B023, E731
                else:
                    varied = self._draw_augmentation(len(global_index), key).rows(own)(next(images))
                    inputs = lambda part: self.preprocess(varied[part])  # noqa: B023, E731
                waited = time.perf_counter() - waited
                # whatever torch itself may draw, such as an attention's dropout
                torch.manual_seed(make_generator(*key, "torch", accelerator.process_index).initial_seed())
                rate = learning_rate(self.at.step, total_steps, train)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                numbers = training_step(
                    self.wrapped,
                    accelerator,
                    self.optimizer,
                    inputs,
                    self.labels[batch.index].to(accelerator.device, non_blocking=True),
                    batch,
                    objective=self.objective,
                    micro_batch=self.micro_batch,
                    max_grad_norm=train.max_grad_norm,
                    from_tokens=cache is not None,
                )
                if self.average:
                    self.average.update()
                totals = {name: totals.get(name, 0) + value for name, value in numbers.items()}
                self.at.step += 1
                self.at.batch += 1
                pending += 1
                self.meter.add(len(global_index), waited)
                bar.update(len(global_index))
                is_stopping = stop.agreed()
                is_saved = _is_due(self.at.batch - 1, train.save_steps) and self.at.batch < self.num_batches
                if pending == train.log_every or self.at.batch == self.num_batches or is_stopping or is_saved:
                    self._log_losses(totals, pending, rate, log)
                    bar.set_postfix(loss=f"{self.at.losses['loss']:.4f}", refresh=False)
                    totals, pending = {}, 0
                if is_stopping:
                    self._leave(is_stopping, log)
                if is_saved:
                    self._save(self.files.state)

    def _draw_augmentation(self, count: int, key: tuple[int, ...]) -> Augmentation | SoundAugmentation:
        """What is varied in each input of a global batch."""
        generator = make_generator(*key, "augment")
        if isinstance(self.preprocess, SoundPreprocess):
            return draw_sound_augmentation(count, self.config.augment, self.preprocess, generator)
        return draw_augmentation(count, self.config.augment, generator)

    def _log_losses(self, totals: dict[str, torch.Tensor], count: int, rate: float, log: RunLog) -> None:
        """The only place where an epoch waits for the device."""
        names = list(totals)
        summed = self.accelerator.reduce(torch.stack([totals[name] for name in names]), reduction="sum")
        values: list[float] = (summed / count).tolist()  # type: ignore[union-attr, operator]
        self.at.losses = dict(zip(names, values, strict=True))
        figures = self.meter.figures()
        log.write("step", step=self.at.step, epoch=self.at.epoch + 1, lr=rate, **self.at.losses, **figures)
        self._track({**{f"loss/{name}": value for name, value in self.at.losses.items()}, "lr": rate,
                     "samples_per_s": figures["samples_per_s"]})  # fmt: skip
        if not math.isfinite(self.at.losses["loss"]):
            raise self._broken("the loss is no longer a number", rate)

    def _broken(self, what: str, rate: float) -> TrainingError:
        newest = self.files.state if self.files.state.exists() else self.last_saved
        saved = f"the last good state is {newest}" if newest else "nothing was saved yet"
        return TrainingError(
            f"{what} at step {self.at.step} (epoch {self.at.epoch + 1}, learning rate {rate:g}); {saved}. "
            "Lower --lr, clip with --max_grad_norm 1, or use --mixed_precision bf16 or no"
        )

    def _track(self, values: dict[str, Any]) -> None:
        if values and self.accelerator.trackers:
            self.accelerator.log(values, step=self.at.step)

    # --- evaluation ---

    def _is_evaluated(self, epoch: int) -> bool:
        every = self.config.train.eval_every
        return every > 0 and (epoch + 1 == self.config.train.epochs or _is_due(epoch, every))

    def _evaluate(self, stop: StopRequest, log: RunLog, split: Split, name: str) -> dict[str, float]:
        evaluator = make_evaluator(
            split,
            self.positions,
            self.preprocess,
            self.accelerator,
            self.config.evaluation,
            seed=self.config.train.seed,
            feed=self.config.feed,
            tokens=self.caches.get(name),
            check=lambda: self._leave_if_asked(stop, log),
        )
        averaged = self.average.applied() if self.average else contextlib.nullcontext()
        plugin = self.accelerator.state.fsdp_plugin if is_sharded(self.model) else None
        with averaged, whole(self.model, reshard_after_forward=bool(plugin and plugin.reshard_after_forward)):
            return evaluator.evaluate(self.model).modes

    def _judge(self, modes: dict[str, float] | None, stop: StopRequest, log: RunLog) -> bool:
        """Whether this epoch is the best so far; notes when --patience has run out."""
        metric = self.config.train.best_metric
        if not metric or modes is None:
            return False
        judged = modes if self.data.val is None else self._evaluate(stop, log, self.data.val, "val")
        if self.at.best is None or judged[metric] > self.at.best:
            self.at.best, self.at.stale = judged[metric], 0
            return True
        self.at.stale += 1
        self.at.is_over = 0 < self.config.train.patience <= self.at.stale
        return False

    # --- memory ---

    def _prepare_memory(self, stop: StopRequest) -> None:
        """Find what fits, and compute what is kept."""
        train, device = self.config.train, self.accelerator.device
        if train.auto_batch_size:
            size = largest_micro_batch(train.batch_size, self._try_batch, stop)
            self.micro_batch = size
            if size < train.batch_size:
                self.tell(f"a batch of {train.batch_size} does not fit into memory: computed {size} images at a time")
        where = self.config.feed.cache_trunk
        if where == "off":
            return
        splits = dict(self.data.splits()) if train.eval_every else {"train": self.data.train}
        if not train.best_metric:
            splits.pop("val", None)
        for name, split in splits.items():
            self.caches[name] = cache_trunk(
                self.model,
                self.feed if name == "train" else Feed(split, device, self.config.feed),
                len(split),
                self.preprocess,
                where,
                batch_size=self.config.evaluation.eval_batch_size,
                autocast=lambda: self.accelerator.autocast(),
                say=self.tell,
                name=name,
                show_progress=self.accelerator.is_main_process,
            )

    def _try_batch(self, size: int) -> None:
        """Forward and backward of `size` images with as many prompts as there can be; nothing is updated."""
        labels = torch.arange(size) % self.model.num_classes
        index = torch.arange(size) % len(self.data.train)
        everyone = torch.arange(self.model.num_classes, device=self.accelerator.device).expand(size, -1)
        self.model.train()
        try:
            with self.accelerator.autocast():
                outputs = self.model(self.preprocess(self.feed(index)), (everyone, everyone))
            loss = sum(part.float().logsumexp(dim=1).sum() for part in outputs)
            (loss * (labels.numel() > 0)).backward()  # type: ignore[union-attr]
        finally:
            self.model.zero_grad(set_to_none=True)

    # --- saving, stopping, going on ---

    def _save(self, path: Path) -> None:
        """Write the model and where the run stands."""
        if not (self.accelerator.is_main_process or is_sharded(self.model)):
            return
        scaler = self.accelerator.scaler
        state = snapshot(
            self.model,
            spec=self.spec,
            preprocess=self.preprocess,
            lora=self.lora,
            optimizer=self.optimizer.optimizer,
            frozen_sha256=self.frozen_sha256,
            state=RunState(
                seed=self.config.train.seed,
                epoch=self.at.epoch,
                step=self.at.step,
                run=self.config.to_dict(),
                averaged=self.average.tensors if self.average else {},
                unknown_below=self._choose_threshold(),
                progress={
                    **dataclasses.asdict(self.at),
                    "global_batch": self.global_batch,
                    "labels": fingerprint_labels(self.data.train.labels),
                    "scaler": scaler.state_dict() if scaler is not None else None,
                },
            ),
        )
        broken = [name for name, tensor in state.tensors.items() if not tensor.isfinite().all()]
        if broken:
            raise self._broken(f"{broken[0]} is no longer a number", self.optimizer.param_groups[0]["lr"])
        if self.accelerator.is_main_process:
            save_checkpoint(path, state)

    def _choose_threshold(self) -> float:
        """Below which probability the model that is saved answers `unknown`; 0 where it never does."""
        share = self.config.model.abstain
        if not share or self.at.batch:  # a state inside an epoch is to go on from, not to be asked
            return 0.0
        assert self.data.val is not None
        averaged = self.average.applied() if self.average else contextlib.nullcontext()
        with averaged, self.accelerator.autocast():
            return choose_threshold(
                self.model, self.data.val, self.preprocess, share, device=self.accelerator.device,
                batch_size=self.config.evaluation.eval_batch_size,
            )  # fmt: skip

    def restore(self, path: Path, state: Checkpoint) -> None:
        """Go on from a saved state of the same run.

        Raises:
            ConfigError: it is not the same run.
            CheckpointError: the file does not hold all that is needed.
        """
        check_same_run(
            state,
            self.config.to_dict(),
            global_batch=self.global_batch,
            labels=self.data.train.labels,
            depends_on_length=self.config.train.depends_on_length,
        )
        trained = self.model.trained_tensors()
        if set(trained) != set(state.tensors) or set(trained) != set(state.moments):
            raise CheckpointError(f"{path} does not hold the tensors and moments of this run's model")
        if state.frozen_sha256 != self.frozen_sha256:
            raise CheckpointError(f"{path} was trained on other weights of {self.spec.model_name}; give those")
        with torch.no_grad():
            for name, tensor in trained.items():
                tensor.copy_(shared_out(state.tensors[name], tensor))
                moments = {key: value.clone() for key, value in state.moments[name].items()}
                step = moments.pop("step").to(tensor.device)
                laid_out = {key: shared_out(value, tensor) for key, value in moments.items()}
                self.optimizer.state[tensor] = {"step": step, **laid_out}
        if self.average:
            self.average.load(state.averaged)
        progress = dict(state.progress)
        scaler = progress.pop("scaler")
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        names = {entry.name for entry in dataclasses.fields(_Position)}
        self.at = _Position(**{key: value for key, value in progress.items() if key in names})
        self.at.is_over = self.at.is_over and self.config.train.patience > 0
        self.last_saved = path
        self.tell(f"resumed {path}: step {self.at.step}, epoch {self.at.epoch + 1}, batch {self.at.batch + 1}")

    def _leave_if_asked(self, stop: StopRequest, log: RunLog) -> None:
        number = stop.agreed()
        if number:
            self._leave(number, log)

    def _leave(self, number: int, log: RunLog) -> None:
        """Save where the run stands, on the request of a signal, and end it."""
        if self.average:
            self.average.restore()
        self._save(self.files.state)
        log.write("stopped", signal=number, step=self.at.step)
        self.accelerator.wait_for_everyone()  # a launcher kills the others when the first one leaves
        raise StoppedError(
            f"stopped by signal {number} after step {self.at.step} (epoch {self.at.epoch + 1}); saved "
            f"{self.files.state}. Go on with the same command and --resume auto",
            number,
        )


def _epoch_line(at: _Position, epochs: int, rate: float, modes: dict[str, float] | None) -> str:
    line = f"epoch {at.epoch}/{epochs}  loss {at.losses['loss']:.4f} ({rate:.0f} samples/s)"
    if modes is not None:
        shown = ("full_bank", "match_only", "all_wrong", "none", "infer_best")
        line += "  " + "  ".join(f"{name} {100 * modes[name]:.1f}" for name in shown)
    return line


def make_evaluator(
    split: Split,
    positions: torch.Tensor,
    preprocess: Preprocess,
    accelerator: Accelerator,
    config: EvalConfig,
    *,
    seed: int,
    feed: FeedConfig | None = None,
    tokens: Callable[[torch.Tensor], torch.Tensor] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluator:
    """An evaluator over a split that shares the batches out among the processes."""
    return Evaluator(
        split,
        positions,
        preprocess,
        device=accelerator.device,
        batch_size=config.eval_batch_size,
        seed=seed,
        inputs=Feed(split, accelerator.device, feed or FeedConfig()),
        tokens=tokens,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        reduce=lambda tensor: accelerator.reduce(tensor, reduction="sum"),  # type: ignore[return-value, arg-type]
        autocast=lambda: accelerator.autocast(),
        check=check,
        show_progress=accelerator.is_main_process,
    )
