"""A training run: epochs, evaluation, saving, stopping and going on, under one Accelerator."""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator

from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.data.loading import check_data
from pfm.data.splits import ClassificationData
from pfm.errors import ConfigError, StoppedError
from pfm.evaluation.advice import advise
from pfm.exact.config import ExactConfig
from pfm.holding import running
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.model.readouts import READOUTS
from pfm.model.starts.keys import read_keys
from pfm.runlog import RunLog, progress
from pfm.storage import check_file, check_folder, make_folder, write_json
from pfm.training.batches import Examples, Loader
from pfm.training.config import RunConfig
from pfm.training.earlier import replaced
from pfm.training.evaluating import Evaluations
from pfm.training.interrupt import StopRequest
from pfm.training.launch import hint_at_launcher, split_trackers, start_accelerator, tracking
from pfm.training.learner import Learner
from pfm.training.memory import Memory, prepare_memory
from pfm.training.objective import Objective, class_weights
from pfm.training.plan import FORECAST_STEPS, Plan, make_plan
from pfm.training.position import is_due
from pfm.training.procedures import PROCEDURES, TrainResult
from pfm.training.records import Records
from pfm.training.saving import NEWEST, RunFiles, find_state
from pfm.training.setup import Setup, check_options, load_run_data, set_up
from pfm.training.step import training_step


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
        TrainingError: one of its classes was erased from the folder, before or meanwhile; nothing is written then.
        StorageError: another run writes into the folder.
    """
    trackers = split_trackers(config.train.report_to)
    accelerator = start_accelerator(device, config.device, trackers=trackers, project_dir=config.train.save_dir)

    def tell(text: str) -> None:
        if accelerator.is_main_process:
            say(text)

    hint_at_launcher(tell)
    PROCEDURES.get(READOUTS.get(config.model.readout).procedure).check(config)
    _check_named(config, data)
    spec = describe_backbone(config.backbone)
    check_options(config, spec)
    _say_what_is_replaced(config, data, tell)
    accelerator.wait_for_everyone()  # before anything is written
    data = load_run_data(config, spec, accelerator, data, tell)
    spec = _fitted(spec, data)
    tell(data.describe(spec.storage))
    folder, stem = make_folder(Path(config.train.save_dir)), f"{data.name}_seed_{config.train.seed}"
    files = RunFiles(folder, stem, data.classes.names)
    with running(folder, data.classes) if accelerator.is_main_process else contextlib.nullcontext():
        return _train(config, accelerator, spec, data, files, tell)


def _train(
    config: RunConfig,
    accelerator: Accelerator,
    spec: BackboneSpec,
    data: ClassificationData,
    files: RunFiles,
    tell: Callable[[str], None],
) -> TrainResult:
    """The run, which has its folder for itself."""
    if accelerator.is_main_process:
        files.sweep()
    found = find_state(config.train.resume, files, tell)
    procedure = PROCEDURES.get(READOUTS.get(config.model.readout).procedure)
    draws = found is None and "prompt_start" not in procedure.unused()
    return procedure.run(set_up(config, accelerator, spec, data, files, tell, draws_starts=draws), found)


class Steps:
    """Training step by step, epoch after epoch."""

    def check(self, config: RunConfig) -> None:
        """Any configuration is one of steps."""

    def unused(self) -> tuple[str, ...]:
        """Options that have no meaning here: those of readouts that are solved, which the model's options refuse."""
        return tuple(field.name for field in dataclasses.fields(ExactConfig))

    def plan(self, setup: Setup) -> Plan | None:
        """Say what the run is going to do."""
        return show_plan(setup)

    def run(self, setup: Setup, found: tuple[Path, Checkpoint] | None) -> TrainResult:
        """Train from the beginning, or from a state that was found."""
        plan = show_plan(setup)
        learner = Learner(setup)
        if found is not None:
            learner.restore(*found)
        accelerator = setup.accelerator
        with (
            RunLog(setup.files.log, is_main=accelerator.is_main_process) as log,
            tracking(accelerator, "pfm", setup.config.to_dict()),
            StopRequest() as stop,
        ):
            return _Run(setup, learner, Records(setup, learner, log), stop, plan).go()


STEPS = Steps()


def _check_named(config: RunConfig, data: ClassificationData | None) -> None:
    """Refuse what the user named and cannot be used, before a backbone is looked for, which may be far away.

    Raises:
        PfmError: which.
    """
    if not config.train.save_dir:
        raise ConfigError("--save_dir is empty; name a folder, . for the one you are in")
    check_folder(Path(config.train.save_dir))
    if config.feed.cache:
        check_folder(Path(config.feed.cache))
    if data is None:
        check_data(config.data)
    if config.train.resume not in ("", NEWEST):
        load_checkpoint(config.train.resume)  # read once more later, which takes less than data do
    if config.start.init_key:
        keys = Path(config.start.init_key)
        if keys.exists():
            read_keys(keys)
        else:  # it is made later
            check_file(keys)


def _fitted(spec: BackboneSpec, data: ClassificationData) -> BackboneSpec:
    """For the data's size, where that decides."""
    return spec.fitted(tuple(data.train.inputs.shape[1:])) if spec.is_fitted else spec


def show_plan(setup: Setup) -> Plan:
    """Say what a run is going to do, and what is better put right before it."""
    plan = make_plan(setup)
    setup.tell(plan.describe())
    for note in plan.notes():
        setup.tell(f"note: {note}")
    return plan


def plan_only(config: RunConfig, device: torch.device, say: Callable[[str], None] = print) -> Plan | None:
    """What `train` would do, said as there, with nothing trained and nothing written but what `--cache` keeps.

    Raises:
        PfmError: as `train`, of what it checks before it starts.
    """
    accelerator = start_accelerator(device, config.device)
    procedure = PROCEDURES.get(READOUTS.get(config.model.readout).procedure)
    procedure.check(config)
    _check_named(config, None)
    spec = describe_backbone(config.backbone)
    check_options(config, spec)
    unhashed = dataclasses.replace(config.data, hash_groups="")  # whose key would be made
    data = load_run_data(dataclasses.replace(config, data=unhashed), spec, accelerator, None)
    spec = _fitted(spec, data)
    say(data.describe(spec.storage))
    files = RunFiles(Path(config.train.save_dir), f"{data.name}_seed_{config.train.seed}", data.classes.names)
    return procedure.plan(set_up(config, accelerator, spec, data, files, say, draws_starts=False))


def _say_what_is_replaced(config: RunConfig, data: ClassificationData | None, tell: Callable[[str], None]) -> None:
    """Before the data is loaded, which may take long."""
    name = config.data.short_name if data is None else data.name
    files = RunFiles(Path(config.train.save_dir), f"{name}_seed_{config.train.seed}")
    if not config.train.resume and (note := replaced(files, config.data)):
        tell(note)


class _Run:
    """The epochs of a run."""

    def __init__(self, setup: Setup, learner: Learner, records: Records, stop: StopRequest, plan: Plan) -> None:
        self.setup = setup
        self.learner = learner
        self.at = learner.at
        self.records = records
        self.stop = stop
        self.plan = plan
        self._has_forecast = False
        self.objective = Objective.over(setup.model, setup.config.objective, setup.labels)

    def go(self) -> TrainResult:
        """Train what is left, epoch by epoch."""
        started = time.monotonic()
        self.records.start()
        modes: dict[str, float] | None = None
        samples_per_s = 0.0
        if not self._is_through():
            memory = prepare_memory(self.setup, self.stop)
            loader = self._loader(memory)
            evaluations = Evaluations(self.setup, self.learner, memory.caches, self._leave_if_asked)
            while not self._is_through():
                self._run_epoch(loader)
                rates = self.records.meter.rates()
                samples_per_s = rates.samples_per_s
                modes = evaluations.after_epoch(self.at.epoch)
                is_best = evaluations.note_best(modes)
                self.at.finish_epoch(modes)
                saved = self._save_epoch(is_best)
                self.records.epoch(rates, modes, checkpoint=saved, is_best=is_best)
            for line in advise(evaluations.last, self.setup.model) if evaluations.last is not None else ():
                self.setup.tell(f"note: {line}")
        seconds = time.monotonic() - started
        self.records.end(seconds)
        checkpoint = self.setup.files.epoch(self.at.epoch)
        return TrainResult(checkpoint=checkpoint, modes=modes, seconds=seconds, samples_per_s=samples_per_s)

    def _is_through(self) -> bool:
        return self.at.epoch >= self.setup.config.train.epochs or self.at.is_over

    def _loader(self, memory: Memory) -> Loader:
        setup, config = self.setup, self.setup.config
        weights = class_weights(setup.labels, setup.model.num_classes)
        examples = Examples(
            labels=setup.labels,
            num_classes=setup.model.num_classes,
            stored=memory.train,
            augment=config.augment,
            tokens=memory.caches.get("train"),
            draw_weights=weights if config.objective.balance == "sampling" else None,
            is_nested=setup.model.target.wants_nested(setup.model.readout),
            decoys=setup.model.decoys(config.objective.decoys),
        )
        return Loader(
            examples,
            setup.processes,
            seed=config.train.seed,
            global_batch=setup.global_batch,
            part_size=memory.part_size,
        )

    def _run_epoch(self, loader: Loader) -> None:
        """Train on every example once, from where the run stands."""
        train, learner, accelerator = self.setup.config.train, self.learner, self.setup.accelerator
        count, done = len(loader.examples.labels), self.at.batch * loader.global_batch
        learner.wrapped.train()
        self.records.meter.start()
        title = f"epoch {self.at.epoch + 1}"
        with progress(count, title, unit="img", is_main=accelerator.is_main_process) as bar:
            bar.update(min(done, count))
            for batch in loader.epoch(self.at.epoch, first=self.at.batch):
                torch.manual_seed(batch.torch_seed)
                learner.set_rate(train.epochs * loader.num_batches)
                numbers = training_step(
                    learner.wrapped,
                    batch,
                    self.objective,
                    learner.optimizer,
                    accelerator,
                    max_grad_norm=train.max_grad_norm,
                )
                learner.finish_step()
                self.records.meter.add(batch.count, batch.waited_s)
                bar.update(batch.count)
                pending = self.records.add(numbers)
                is_last = self.at.batch == loader.num_batches
                if is_last or self.records.meter.steps == FORECAST_STEPS:
                    self._forecast(train.epochs * loader.num_batches)
                is_saved = is_due(self.at.batch - 1, train.save_steps) and not is_last
                stopping = self.stop.agreed()
                if pending == train.log_every or is_last or is_saved or stopping:
                    self.records.losses()
                    bar.set_postfix(loss=f"{self.at.losses['loss']:.4f}", refresh=False)
                if stopping:
                    self._leave(stopping)
                if is_saved:
                    learner.save(self.setup.files.state)

    def _forecast(self, total_steps: int) -> None:
        """Once, after the first steps: how long the rest takes."""
        if self._has_forecast:
            return
        self._has_forecast = True
        if self.setup.processes.device.type == "cuda":
            torch.cuda.synchronize(self.setup.processes.device)  # or they were only asked for
        text = self.plan.forecast(self.records.meter.rates(), steps_left=total_steps - self.at.step)
        if text is not None:
            self.setup.tell(text)

    def _save_epoch(self, is_best: bool) -> str | None:
        """Write what is due after an epoch, and delete what is not kept; the name of the epoch's checkpoint."""
        setup, files, train = self.setup, self.setup.files, self.setup.config.train
        path = files.epoch(self.at.epoch)
        is_saved = self._is_through() or is_due(self.at.epoch - 1, train.save_every)
        if is_best:
            self.learner.save(files.best)
        if is_saved:
            self.learner.save(path)
            self.learner.last_saved = path
        if setup.accelerator.is_main_process:
            with files.writing():
                if is_saved:
                    files.state.unlink(missing_ok=True)
                    files.prune(train.keep)
                if self.at.history:
                    write_json(files.accuracies, self.at.history)
        return path.name if is_saved else None

    def _leave_if_asked(self) -> None:
        number = self.stop.agreed()
        if number:
            self._leave(number)

    def _leave(self, number: int) -> None:
        """Save where the run stands, on the request of a signal, and end it."""
        files = self.setup.files
        if self.learner.average:
            self.learner.average.restore()
        self.learner.save(files.state)
        self.records.stopped(number)
        self.setup.accelerator.wait_for_everyone()  # a launcher kills the others when the first one leaves
        raise StoppedError(
            f"stopped by signal {number} after step {self.at.step} (epoch {self.at.epoch + 1}); saved "
            f"{files.state}. Go on with the same command and --resume auto",
            number,
        )
