"""The demo on handwritten digits, which come with the package."""

import dataclasses

from pfm.classes import ClassList
from pfm.data.config import DataConfig
from pfm.errors import ConfigError
from pfm_bench.demo.images import ImagesTask
from pfm_bench.demo.task import RECIPE


def digits_task(data: DataConfig | None, forget: str) -> ImagesTask:
    """The digits, without one of them.

    Args:
        data: that was given, which has to be none.

    Raises:
        ConfigError: other data was given.
        ClassNameError: there is no such digit.
    """
    if data is not None:
        raise ConfigError("pfm demo takes its own images; --dataset and --label_from are for --data_type audio")
    classes = ClassList.from_names([str(digit) for digit in range(10)])
    return ImagesTask(
        command="pfm demo",
        data=DataConfig(dataset="digits"),
        model_name="scratch:vit_digits",
        forgotten=classes.names[classes.position(forget or "3")],
        recipes={"cls": RECIPE, "prompt": dataclasses.replace(RECIPE, epochs=90, lr=5e-3, max_grad_norm=1.0)},
        colors="gray_r",
        limits=(0.3, 0.75),
        margin=1,
    )
