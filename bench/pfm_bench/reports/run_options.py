"""Options of `pfm train`, as typed, to the configuration of a run."""

import dataclasses
import typing
from collections.abc import Sequence

from pfm.commands.recipe import with_recipe
from pfm.commands.train import train as train_command
from pfm.training.config import RunConfig


def run_config(options: Sequence[str]) -> RunConfig:
    """What `pfm train` makes of its options, its recipe's among them."""
    hints = typing.get_type_hints(RunConfig)
    with train_command.make_context("train", list(options)) as context:
        configs = {}
        for section in dataclasses.fields(RunConfig):
            config = hints[section.name]
            names = {field.name for field in dataclasses.fields(config)} & set(context.params)
            configs[section.name] = config(**{name: context.params[name] for name in names})
        return RunConfig(**with_recipe(configs))
