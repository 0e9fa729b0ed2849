"""The demo's tasks, by the kind of input: a new one is a file beside this and a line in `TASKS`."""

from collections.abc import Callable

from pfm.data.config import DataConfig
from pfm.errors import ConfigError
from pfm.registry import Registry
from pfm_bench.demo.digits import digits_task
from pfm_bench.demo.sounds import sounds_task
from pfm_bench.demo.task import Task

TASKS: Registry[Callable[[DataConfig | None, str], Task]] = Registry("demo")
TASKS.register("image", digits_task)
TASKS.register("audio", sounds_task)


def choose_task(data_type: str, dataset: str, label_from: str, label: str, forget: str) -> Task:
    """What is told of.

    Raises:
        ConfigError: data that does not go with it.
        ClassNameError: no class of that name.
    """
    if not dataset and (label_from or label):
        raise ConfigError("--label_from and --label are about --dataset; give that too, or leave them out")
    data = DataConfig(dataset=dataset, data_type=data_type, label_from=label_from, label=label) if dataset else None
    return TASKS.get(data_type if data is None else data.kind)(data, forget)
