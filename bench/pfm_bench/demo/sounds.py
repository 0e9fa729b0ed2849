"""The demo on a folder of sounds that the user has."""

import dataclasses
import shlex
from typing import Any

import torch

from pfm.data.config import DataConfig
from pfm.data.inputs import preprocess_from_dict
from pfm.errors import ConfigError
from pfm_bench.demo.task import RECIPE, Task
from pfm_export.serving.session import Prediction, PromptSession

SOUND_RECIPE = dataclasses.replace(RECIPE, epochs=20, batch_size=64, lr=3e-3, weight_decay=0.05)


class SoundsTask(Task):
    """Log-mel features of clips."""

    def ask(self, session: PromptSession, stored: torch.Tensor, without: tuple[str, ...]) -> Prediction:
        """Of clips as they were read: the first window of each."""
        preprocess = preprocess_from_dict(session.manifest["preprocess"])
        return session.predict(preprocess(stored).numpy(), without=without)

    def show(self, stored: torch.Tensor, axis: Any) -> None:
        sounding = stored[: int((stored != 0).any(dim=1).sum())]  # zeros stand behind the end of a clip
        axis.imshow(sounding.T.numpy(), origin="lower", aspect="auto", cmap="magma")


def sounds_task(data: DataConfig, forget: str) -> SoundsTask:
    """The sounds, without one class; they are looked at before anything is trained.

    Raises:
        ConfigError: none are given.
        ClassNameError: no class of that name.
    """
    if not data.dataset:
        raise ConfigError("no sounds come with the package; give --dataset audiofolder:PATH")
    task = SoundsTask(
        command=f"pfm demo --data_type audio{_typed(data, forget)}",
        data=data,
        model_name="scratch:ast_mini",
        forgotten=forget,
        recipes={
            "cls": SOUND_RECIPE, "prompt": dataclasses.replace(SOUND_RECIPE, epochs=30, max_grad_norm=1.0)
        },
    )  # fmt: skip
    classes = task.load().classes
    return dataclasses.replace(task, forgotten=classes.names[classes.position(forget) if forget else -1])


def _typed(data: DataConfig, forget: str) -> str:
    """The options behind the command, the place of the data left out."""
    parts = {"dataset": "audiofolder:PATH", "label_from": data.label_from, "label": data.label, "forget": forget}
    return "".join(f" --{name} {shlex.quote(value)}" for name, value in parts.items() if value)
