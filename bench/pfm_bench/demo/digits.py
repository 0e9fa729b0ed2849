"""The demo on handwritten digits, which come with the package."""

import dataclasses
from typing import Any

import torch

from pfm.classes import ClassList
from pfm.data.config import DataConfig
from pfm.errors import ConfigError
from pfm_bench.demo.task import RECIPE, Task
from pfm_export.serving.session import Prediction, PromptSession


class DigitsTask(Task):
    """8 x 8 pixels, in grey."""

    def ask(self, session: PromptSession, stored: torch.Tensor, without: tuple[str, ...]) -> Prediction:
        return session.predict_images(list(stored[:, 0].numpy()), without=without)

    def show(self, stored: torch.Tensor, axis: Any) -> None:
        axis.imshow(stored[0].numpy(), cmap="gray_r")


def digits_task(data: DataConfig, forget: str) -> DigitsTask:
    """The digits, without one of them.

    Raises:
        ConfigError: other data was given.
        ClassNameError: there is no such digit.
    """
    if data.dataset or data.label_from:
        raise ConfigError("pfm demo takes its own images; --dataset and --label_from are for --data_type audio")
    classes = ClassList.from_names([str(digit) for digit in range(10)])
    return DigitsTask(
        command="pfm demo",
        data=dataclasses.replace(data, dataset="digits"),
        model_name="scratch:vit_digits",
        forgotten=classes.names[classes.position(forget or "3")],
        recipes={"cls": RECIPE, "prompt": dataclasses.replace(RECIPE, epochs=90, lr=5e-3, max_grad_norm=1.0)},
    )
