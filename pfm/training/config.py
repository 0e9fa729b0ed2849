"""The configuration of a training run: one dataclass for what only training has, one for the whole of it."""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from pfm.backbones.spec import BackboneConfig
from pfm.data.augmentation import AugmentConfig
from pfm.data.config import DataConfig
from pfm.data.feed import FeedConfig
from pfm.device import DeviceConfig
from pfm.errors import ConfigError
from pfm.evaluation.evaluator import EvalConfig
from pfm.model.classifier import ModelConfig
from pfm.model.lora import LoraSettings
from pfm.options import option
from pfm.training.objective import ObjectiveConfig
from pfm.training.optim import OptimConfig
from pfm.training.saving import SaveConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(OptimConfig, SaveConfig):
    """One run: how long, in what portions, and what is said of it; the defaults are the paper's."""

    batch_size: int = option(32, "Images or clips per step and process.", minimum=1)
    gradient_accumulation_steps: int = option(
        1, "Take a step for this many batches at once, one after another; the numbers of one batch as large.", minimum=1
    )
    auto_batch_size: bool = option(
        False, "Where a batch does not fit into memory, compute it in parts; the numbers stay those of the whole."
    )
    epochs: int = option(10, "Passes over the training split.", minimum=1)
    seed: int = option(42, "Seed of initial weights, order, draws and dropout.", minimum=0)
    gradient_checkpointing: bool = option(
        False, "Keep no activations inside the blocks but compute them again: less memory, about a third more time."
    )
    compile: bool = option(False, "Compile the training step with torch.compile.")
    eval_every: int = option(
        1, "Evaluate the inference modes after every n-th epoch, and after the last; 0: never.", minimum=0
    )
    log_every: int = option(10, "Write losses and rates to the log every n steps.", minimum=1)
    report_to: str = option("", "Trackers, separated by commas: tensorboard, wandb, mlflow, ….")

    def __post_init__(self) -> None:
        OptimConfig.__post_init__(self)
        SaveConfig.__post_init__(self)
        if self.best_metric and self.eval_every == 0:
            raise ConfigError("--best_metric needs evaluations; give --eval_every 1 or more")


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

    def to_dict(self) -> dict[str, Any]:
        """By section and option: numbers, strings and bools, for a checkpoint or JSON."""
        return dataclasses.asdict(self)

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
