"""What a run stands on: data, model and files, made and checked before any training starts."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, broadcast_object_list

from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec
from pfm.classes import ClassList, check_unknown
from pfm.data.inputs import Preprocess
from pfm.data.loading import load_data
from pfm.data.reading import Intake
from pfm.data.splits import ClassificationData, Split, hold_out_for_threshold
from pfm.device import Processes
from pfm.errors import ConfigError, PfmError
from pfm.evaluation.samples import label_positions
from pfm.model.classifier import PromptedClassifier, check_depth
from pfm.model.config import LoraSettings
from pfm.model.readouts import READOUTS
from pfm.model.starts import STARTS, KeySource
from pfm.model.targets import TARGETS
from pfm.model.trunk_cache import check_cache
from pfm.training.config import RunConfig
from pfm.training.launch import host_of, processes_of
from pfm.training.room import check_steps_fit
from pfm.training.saving import RunFiles

FEWEST_NESTED = 4  # classes: the own, two to compare, and the one more that the other branch sees


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A run before its first step, and what does not change in it.

    Attributes:
        lora: settings of the model's adapters, None where it has none.
        frozen_sha256: of the backbone's weights that stay as they are; "" where none does.
        files: that the run leaves.
        tell: says something to people, on the main process only.
    """

    config: RunConfig
    accelerator: Accelerator
    data: ClassificationData
    spec: BackboneSpec
    preprocess: Preprocess
    model: PromptedClassifier
    lora: LoraSettings | None
    frozen_sha256: str
    files: RunFiles
    tell: Callable[[str], None]

    @cached_property
    def processes(self) -> Processes:
        return processes_of(self.accelerator)

    @cached_property
    def positions(self) -> torch.Tensor:
        """Of the data's labels in the bank, (number of labels,)."""
        return label_positions(self.model.classes, self.data.classes)

    @cached_property
    def labels(self) -> torch.Tensor:
        """(N,) of the training examples, positions in the bank."""
        return self.positions[self.data.train.labels]

    @property
    def global_batch(self) -> int:
        """Examples of a step over all processes."""
        train = self.config.train
        return train.batch_size * train.gradient_accumulation_steps * self.processes.world_size


def load_run_data(
    config: RunConfig,
    spec: BackboneSpec,
    accelerator: Accelerator,
    data: ClassificationData | None,
    tell: Callable[[str], None] = lambda _: None,
) -> ClassificationData:
    """What is trained on, and what a threshold is chosen on.

    Args:
        data: instead of what `config.data` names.
    """
    if data is None:
        intake = Intake(
            feed=config.feed,
            device=accelerator.device,
            host=host_of(accelerator),
            say=tell,
            is_shown=accelerator.is_main_process,
        )
        data = load_data(config.data, spec.storage, intake=intake)
    return hold_out_for_threshold(data, config.model.held_out_for)


def check_options(config: RunConfig, spec: BackboneSpec) -> None:
    """Refuse options that do not go with each other or with the backbone, before data or weights are looked at.

    Raises:
        ConfigError: which.
    """
    config.augment.check_kind(spec.storage)
    wanted = READOUTS.get(config.model.readout).settled(config.model)
    check_depth(wanted, spec)
    if wanted.final_norm is False and not spec.family.can_leave_norm(spec.config):
        raise ConfigError(f"--no_final_norm: {spec.model_name} has none behind its last block; leave it out")
    tune = wanted.resolve_tune(is_pretrained=spec.is_pretrained)
    config.objective.check_share(tune)
    check_cache(config.feed, trunk_is_frozen=tune != "full", is_augmented=config.augment.is_on)


def _check_classes(config: RunConfig, classes: ClassList) -> None:
    """Refuse options that do not go with the classes, before a backbone is loaded.

    Raises:
        ConfigError: which.
        ClassNameError: a class is called as the answer `unknown` is.
    """
    number = config.train.best_metric.removeprefix("class_")
    if number != config.train.best_metric and int(number) not in classes.ids:
        raise ConfigError(f"--best_metric {config.train.best_metric}: the classes are {classes.describe()}")
    model, target = config.model, TARGETS.get(config.model.wrong_target)
    if target.wants_nested(READOUTS.get(model.readout)) and len(classes) < FEWEST_NESTED:
        raise ConfigError(
            f"--wrong_target {model.wrong_target} with --readout {model.readout} compares two classes beside the own "
            f"one, with a prompt to spare: it takes at least {FEWEST_NESTED} classes, and here are {len(classes)}"
        )
    check_unknown(classes, has_answer=target.unknown_logit > -torch.inf or model.abstain > 0)


def set_up(
    config: RunConfig,
    accelerator: Accelerator,
    spec: BackboneSpec,
    data: ClassificationData,
    files: RunFiles,
    tell: Callable[[str], None],
    *,
    draws_starts: bool = True,
) -> Setup:
    """Check that the options go with the data, and build the model.

    Args:
        draws_starts: put the classes' rows at their start, and make the file of keys where one is asked for; not for a
            run that goes on from a file, nor for a plan or a readout that is solved.

    Raises:
        PfmError: see `pfm.errors`.
    """
    check_steps_fit(config, spec, accelerator.device, num_classes=len(data.classes), num_samples=len(data.train))
    _check_classes(config, data.classes)
    model, lora, frozen = _build_model(spec, data, config)
    if draws_starts:
        start_rows(model, config, accelerator, data.train)
    preprocess = spec.preprocess or _own_preprocess(model, spec, data)
    preprocess = preprocess if data.storage is None else preprocess.stored_as(data.storage)
    is_augmented = config.augment.is_on or preprocess.is_cropped(data.train.inputs)
    check_cache(config.feed, trunk_is_frozen=model.trunk_is_frozen, is_augmented=is_augmented)
    tell(_describe_model(model, spec, accelerator))
    return Setup(
        config=config, accelerator=accelerator, data=data, spec=spec, preprocess=preprocess, model=model, lora=lora,
        frozen_sha256=frozen, files=files, tell=tell,
    )  # fmt: skip


def _own_preprocess(model: PromptedClassifier, spec: BackboneSpec, data: ClassificationData) -> Preprocess:
    """For a backbone that was trained on none: measured on the training data, or constants where it may go."""
    if model.readout.measures_input:
        return spec.storage.measured_preprocess(data.train.inputs, spec.input_shape)
    return spec.family.constant_preprocess(spec.config)


def _build_model(
    spec: BackboneSpec, data: ClassificationData, config: RunConfig
) -> tuple[PromptedClassifier, LoraSettings | None, str]:
    """The model a run starts from, its adapters' settings, and the hash of what stays frozen."""
    wanted = READOUTS.get(config.model.readout).settled(config.model)
    tune = wanted.resolve_tune(is_pretrained=spec.is_pretrained)
    backbone = build_backbone(spec, seed=config.train.seed)
    frozen = "" if tune == "full" else frozen_sha256(backbone)
    lora = config.lora if tune == "lora" else None
    torch.manual_seed(config.train.seed)
    settings = dataclasses.replace(wanted, tune=tune)
    model = PromptedClassifier(backbone, data.classes, settings, lora)
    backbone.recompute = config.train.gradient_checkpointing
    if lora is not None and config.device.stores_frozen_in_bf16:
        model.store_frozen(torch.bfloat16)
    return model, lora, frozen


def start_rows(model: PromptedClassifier, config: RunConfig, accelerator: Accelerator, train: Split) -> None:
    """Put the rows of every class at their start, in place.

    Where they come from keys, the main process draws and the others receive: no key leaves it.

    Args:
        train: labels are positions in the model's bank.

    Raises:
        ConfigError, DataError, StorageError: a file of keys or of a sample cannot be used; on every process.
    """
    start = STARTS.get(config.start.prompt_start)
    if not start.takes_keys:
        start.apply(model, config.train.seed)
        return
    problem: list[PfmError | None] = [None]
    if accelerator.is_main_process:
        try:
            source = KeySource(
                names=model.classes.names,
                seed=config.train.seed,
                contents=train.first_contents,
                file=Path(config.start.init_key) if config.start.init_key else None,
            )
            start.apply(model, config.train.seed, start.keys(source))
        except PfmError as error:
            problem = [error]
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
    for name in model.class_row_names:
        rows = model.get_parameter(name)
        received = broadcast(rows.detach().to(accelerator.device))
        with torch.no_grad():
            rows.copy_(received)


def check_sharded(config: RunConfig, model: PromptedClassifier) -> None:
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


def _describe_model(model: PromptedClassifier, spec: BackboneSpec, accelerator: Accelerator) -> str:
    trained = sum(tensor.numel() for tensor in model.trained_tensors().values())
    total = sum(tensor.numel() for tensor in model.parameters())
    return (
        f"model {spec.model_name} at {spec.describe_size()}, readout {model.config.readout}, tune {model.config.tune}: "
        f"{trained:,} of {total:,} parameters train; {accelerator.num_processes} process(es) on "
        f"{accelerator.device}, precision {accelerator.mixed_precision}"
    )
