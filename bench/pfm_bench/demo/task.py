"""What a demo is told of: the data, the model's shape, the recipes, and what is particular to its kind of input."""

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch

from pfm.backbones.config import BackboneConfig
from pfm.backbones.raw import raw_model
from pfm.backbones.spec import describe_backbone
from pfm.data.config import AugmentConfig, DataConfig
from pfm.data.loading import load_data
from pfm.data.splits import ClassificationData
from pfm.device import DeviceConfig
from pfm.evaluation.config import EvalConfig
from pfm.model.config import LoraSettings, ModelConfig, StartConfig
from pfm.training.config import RunConfig, TrainConfig
from pfm_export.serving.session import Prediction, PromptSession

MODELS = {
    "cls": ModelConfig(readout="cls"),
    "prompt": ModelConfig(readout="prompt", wrong_target="none", final_norm=True),
    "ridge": ModelConfig(readout="ridge", features="raw"),
}
SOLVED = TrainConfig(eval_every=0)  # nothing of a recipe applies to what is solved
RECIPE = TrainConfig(
    epochs=60,
    batch_size=128,
    lr=8e-3,
    optimizer="adamw",
    weight_decay=0.1,
    schedule="cosine",
    warmup=0.1,
    eval_every=0,
    save_every=0,
)


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What a demo is told of.

    Attributes:
        command: as the user typed it, the place of the data left out.
        forgotten: the class that goes.
        axis_room: inches to the left of and under a shown input, for what is written on its axes.
        recipes: by readout; one that is not there is solved and has none.
        start: where prompts start.
    """

    axis_room: ClassVar[tuple[float, float]] = (0.0, 0.0)
    command: str
    data: DataConfig
    model_name: str
    forgotten: str
    recipes: dict[str, TrainConfig]
    start: StartConfig = field(default_factory=StartConfig)

    @property
    def name(self) -> str:
        """Of the data set."""
        return self.data.short_name

    def load(self) -> ClassificationData:
        """Its data, as the model takes it."""
        return load_data(self.data, describe_backbone(BackboneConfig(model_name=self.model_name)).storage)

    @abstractmethod
    def ask(self, session: PromptSession, stored: torch.Tensor, without: tuple[str, ...]) -> Prediction:
        """A session's answers for stored inputs, some classes suspended for this request."""

    @abstractmethod
    def show(self, stored: torch.Tensor, axis: Any) -> None:
        """One stored input, as a picture on an axis of matplotlib's."""


def demo_recipe(task: Task, readout: str, folder: Path, seed: int) -> RunConfig:
    """The demo's recipe, as `pfm train` would take it."""
    model = MODELS[readout]
    model_name = raw_model(task.data.kind) if model.features == "raw" else task.model_name
    return RunConfig(
        data=task.data,
        backbone=BackboneConfig(model_name=model_name),
        model=model,
        lora=LoraSettings(),
        start=task.start,
        train=dataclasses.replace(task.recipes.get(readout, SOLVED), seed=seed, save_dir=str(folder)),
        augment=AugmentConfig(),
        evaluation=EvalConfig(eval_batch_size=360),
        device=DeviceConfig(cpu=True),
    )
