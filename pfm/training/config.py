"""The configuration of a training run: one dataclass for what only training has, one for the whole of it."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pfm.backbones.config import SCRATCH, BackboneConfig
from pfm.data.config import AugmentConfig, DataConfig, FeedConfig
from pfm.device import DeviceConfig
from pfm.errors import ConfigError
from pfm.evaluation.config import EvalConfig
from pfm.model.config import LoraSettings, ModelConfig, StartConfig
from pfm.options import LARGEST_SEED, Section, expand_paths, option
from pfm.training.recipes import PAPER


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """How examples and answers are weighted; the defaults are the paper's."""

    section: ClassVar = Section.OPTIMISATION
    label_smoothing: float = option(
        0.0, "Share of the target spread evenly over the present classes (and `unknown`).", minimum=0.0
    )
    absent_weight: float = option(
        1.0,
        "Weight of the branch whose own prompt is absent; 0 trains without it, for a model that does not forget.",
        minimum=0.0,
    )
    target_temperature: float = option(
        1.0,
        "With --wrong_target others: temperature of its target; above 1 flatter, towards uniform, below 1 surer, as "
        "models that never saw the class are.",
        minimum=0.0,
    )
    decoys: int = option(
        0,
        "With --wrong_target none: so many prompts of no class that each step shows beside those of classes and "
        "that are never right (so no --label_smoothing). The first is minus the sum of those there: an erased class "
        "then does not come back by what follows from the prompts that are left. Costs accuracy; further ones are "
        "random and cost more.",
        minimum=0,
    )
    others_gradient: float = option(
        1.0,
        "With --tune prompts: share of an example's gradient that reaches prompts and rows of other classes; the less, "
        "the harder its class is to bring back once erased, and below some share harder than had it never been there.",
        minimum=0.0,
    )
    balance: str = option(
        "none",
        "For skewed data: weigh each example by the inverse of its class's share, or draw each class equally often.",
        choices=("none", "weights", "sampling"),
    )

    def __post_init__(self) -> None:
        if self.label_smoothing >= 1:
            raise ConfigError(f"--label_smoothing {self.label_smoothing:g} leaves no target; give a value below 1")
        if self.others_gradient > 1:
            raise ConfigError(f"--others_gradient {self.others_gradient:g} is not a share; give a number from 0 to 1")
        if self.target_temperature == 0:
            raise ConfigError(
                "--target_temperature 0 divides by zero; give a number above 0, 1 for the target as it is"
            )

    def check_share(self, tune: str) -> None:
        """Refuse a share of the gradient where more than prompts and readout trains.

        Raises:
            ConfigError: so it does.
        """
        if self.others_gradient < 1 and tune != "prompts":
            raise ConfigError(
                f"--others_gradient {self.others_gradient:g} keeps examples from prompts and rows of other classes, "
                "and what all classes share would still learn of them; give --tune prompts, or --others_gradient 1"
            )


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """Which options were chosen for the user, and by what.

    Attributes:
        chose: what the recipe said and the user did not, as typed; of a command, not an option.
        left_out: what it said besides, and what the user typed does not go with; as typed, and not an option.
    """

    section: ClassVar = Section.OPTIMISATION
    recipe: str = option(
        PAPER,
        "What options are that are not given: paper, each its default; recommended, so that a removed class is as hard "
        "to bring back as one that was never there; or a TOML file of one's own.",
    )
    chose: str = option("", "")
    left_out: str = option("", "")

    def describe(self) -> str:
        """For people."""
        if self.recipe == PAPER:
            return PAPER
        left_out = f"; left out beside what was given: {self.left_out}" if self.left_out else ""
        return f"{self.recipe}: {self.chose or 'chose nothing here'}{left_out}"


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the trained tensors move; the defaults are the paper's."""

    section: ClassVar = Section.OPTIMISATION
    lr: float = option(1e-3, "Learning rate.", minimum=0.0)
    optimizer: str = option("adam", "Optimizer.", choices=("adam", "adamw"))
    weight_decay: float = option(0.0, "Weight decay; decoupled with adamw.", minimum=0.0)
    schedule: str = option("constant", "Learning rate over the run.", choices=("constant", "cosine"))
    warmup: float = option(0.0, "Part of the run in which the learning rate rises linearly from 0.", minimum=0.0)
    max_grad_norm: float = option(0.0, "Clip the norm of the gradient to this; 0: never.", minimum=0.0)
    ema: float = option(
        0.0,
        "Keep an exponential moving average of the trained tensors with this decay, and evaluate and export it; 0: no.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        if self.warmup > 1:
            raise ConfigError(f"--warmup {self.warmup:g} is a part of the run; give a value from 0 to 1")
        if self.ema >= 1:
            raise ConfigError(f"--ema {self.ema:g} never moves; give a value below 1, such as 0.999")

    @property
    def depends_on_length(self) -> bool:
        """Whether the learning rate of a step depends on how many steps there will be."""
        return self.schedule != "constant" or self.warmup > 0


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """What is written, how often, and what a run goes on from."""

    section: ClassVar = Section.SAVING
    save_dir: str = option("checkpoints", "Folder for checkpoints, accuracies and the log.", is_path=True)
    save_every: int = option(
        1, "Write a checkpoint after every n-th epoch, and after the last; 0: only after the last.", minimum=0
    )
    save_steps: int = option(
        0, "Write the state of the run, to resume from, after every n-th step too; 0: not inside an epoch.", minimum=0
    )
    keep: int = option(0, "Keep the checkpoints of the last n epochs; 0: of all.", minimum=0)
    best_metric: str = option(
        "", "Keep the epoch that is best in this inference mode (such as full_bank) apart, as <…>_best.pt."
    )
    patience: int = option(0, "Stop when --best_metric has not risen for this many evaluations; 0: never.", minimum=0)
    resume: str = option(
        "", "Go on from a checkpoint of the same run: its path, or auto for the newest in --save_dir.", is_path=True
    )

    def __post_init__(self) -> None:
        from pfm.evaluation.modes import MODE_NAMES  # which need torch

        expand_paths(self)
        if self.best_metric and self.best_metric not in MODE_NAMES and not re.fullmatch(r"class_\d+", self.best_metric):
            raise ConfigError(
                f"--best_metric {self.best_metric!r}: choose one of {', '.join(MODE_NAMES)}, or class_<i>"
            )
        if self.patience and not self.best_metric:
            raise ConfigError("--patience needs --best_metric, to know what is to rise")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimConfig, SaveConfig):
    """One run: how long, in what portions, and what is said of it; the defaults are the paper's."""

    section: ClassVar = Section.OPTIMISATION
    batch_size: int = option(32, "Images or clips per step and process.", minimum=1)
    gradient_accumulation_steps: int = option(
        1,
        "Take a step for this many batches at once, one after another; the numbers of one batch as large.",
        minimum=1,
        section=Section.SPEED,
    )
    auto_batch_size: bool = option(
        False,
        "Where a batch does not fit into memory, compute it in parts; the numbers stay those of the whole.",
        section=Section.SPEED,
    )
    epochs: int = option(10, "Passes over the training split.", minimum=1)
    seed: int = option(42, "Seed of initial weights, order, draws and dropout.", minimum=0, maximum=LARGEST_SEED)
    gradient_checkpointing: bool = option(
        False,
        "Keep no activations inside the blocks but compute them again: less memory, about a third more time.",
        section=Section.SPEED,
    )
    compile: bool = option(False, "Compile the training step with torch.compile.", section=Section.SPEED)
    eval_every: int = option(
        1,
        "Evaluate the inference modes after every n-th epoch, and after the last; 0: never.",
        minimum=0,
        section=Section.EVALUATION,
    )
    log_every: int = option(10, "Write losses and rates to the log every n steps.", minimum=1, section=Section.SAVING)
    report_to: str = option("", "Trackers, separated by commas: tensorboard, wandb, mlflow, ….", section=Section.SAVING)

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        SaveConfig.__post_init__(self)
        if self.best_metric and self.eval_every == 0:
            raise ConfigError("--best_metric needs evaluations; give --eval_every 1 or more")


def tune_of(model: ModelConfig, backbone: BackboneConfig) -> str:
    """What trains beside prompts and readout, by the name of the backbone alone."""
    return model.resolve_tune(is_pretrained=not backbone.model_name.startswith(SCRATCH))


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
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)
    start: StartConfig = field(default_factory=StartConfig)
    recipe: RecipeConfig = field(default_factory=RecipeConfig)

    def __post_init__(self) -> None:
        if self.objective.target_temperature != 1 and self.model.wrong_target != "others":
            raise ConfigError(
                f"--target_temperature is for --wrong_target others; {self.model.wrong_target} is the same at any"
            )

        if self.objective.decoys and self.model.wrong_target != "none":
            raise ConfigError(
                f"--decoys are prompts that get the answer `unknown`, which --wrong_target {self.model.wrong_target} "
                "does not have: give --readout prompt --wrong_target none with it"
            )
        if self.objective.decoys and self.objective.label_smoothing:
            raise ConfigError("--label_smoothing would make decoys right in part; leave it or --decoys out")
        self.start.check()

    def to_dict(self) -> dict[str, Any]:
        """By section and option: numbers, strings and bools, for a checkpoint or JSON; paths of data are whole."""
        return dataclasses.asdict(dataclasses.replace(self, data=self.data.placed()))

    @classmethod
    def from_dict(cls, stored: Mapping[str, Mapping[str, Any]]) -> Self:
        """What `to_dict` made, of this version or another: what it lacks is the default, what we lack is left out."""
        hints = typing.get_type_hints(cls)
        sections = {}
        for section in dataclasses.fields(cls):
            config = hints[section.name]
            known = {entry.name for entry in dataclasses.fields(config)}
            values = stored.get(section.name, {})
            sections[section.name] = config(**{name: value for name, value in values.items() if name in known})
        return cls(**sections)
