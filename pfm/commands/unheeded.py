"""Options of `pfm train` that were given, and that the run would not heed."""

import dataclasses

from pfm.commands.options import was_given
from pfm.errors import ConfigError
from pfm.model.config import LoraSettings
from pfm.training.config import RunConfig, tune_of


def refuse_adapters(config: RunConfig) -> None:
    """Refuse options of adapters, and of what is frozen below them, where there are none.

    Raises:
        ConfigError: which.
    """
    tune = tune_of(config.model, config.backbone)
    given = [f"--{field.name}" for field in dataclasses.fields(LoraSettings) if was_given(field.name)]
    if given and tune != "lora":
        why = f"--tune {tune} has no adapters" if was_given("tune") else f"{config.backbone.model_name} trains whole"
        raise ConfigError(f"{', '.join(given)}: {why}; leave it out, or give --tune lora")
    if config.device.frozen_dtype == "bf16" and tune != "lora":
        raise ConfigError(f"--frozen_dtype bf16 is for --tune lora, and here it is {tune}; leave it out")


def refuse_unused(readout: str) -> None:
    """Refuse options of the running command that the readout's way of training does not heed.

    Raises:
        ConfigError: which.
    """
    from pfm.model.readouts import READOUTS
    from pfm.training.procedures import PROCEDURES

    names = dict.fromkeys(PROCEDURES.get(READOUTS.get(readout).procedure).unused())
    given = [f"--{name}" for name in names if was_given(name)]
    if given:
        raise ConfigError(f"{', '.join(given)}: has no meaning with --readout {readout}; leave it out")
