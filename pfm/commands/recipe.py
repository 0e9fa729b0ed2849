"""`--recipe`: what options of `pfm train` are where the user did not give them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from pfm.backbones.config import SCRATCH
from pfm.commands.options import was_given
from pfm.errors import ConfigError
from pfm.training.recipes import Value, load_recipe

BEFORE = ("recipe", "readout", "model_name")  # which table holds depends on these


def with_recipe(configs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configs of the running command, by section, with what its recipe says; what the user gave wins.

    Raises:
        ConfigError: there is no such recipe, or it says something that the command does not take.
    """
    model, chosen = configs["model"], configs["recipe"]
    recipe = load_recipe(chosen.recipe)
    sections = {field.name: name for name, config in configs.items() for field in dataclasses.fields(config)}
    for name, value in recipe.everything():  # also for readouts that this run does not take
        if name not in sections or name in BEFORE:
            raise ConfigError(f"--recipe {recipe.name}: {name} is not an option that a recipe can say")
        _converted(name, value, recipe.name)
    tune = model.resolve_tune(is_pretrained=not configs["backbone"].model_name.startswith(SCRATCH))
    said = {
        name: _converted(name, value, recipe.name)
        for name, value in recipe.options(model.readout, tune).items()
        if not was_given(name)
    }
    made = {
        section: dataclasses.replace(config, **{name: said[name] for name in said if sections[name] == section})
        for section, config in configs.items()
    }
    made["recipe"] = dataclasses.replace(
        chosen, recipe=recipe.name, chose=", ".join(f"--{name} {value}" for name, value in said.items())
    )
    return made


def _converted(name: str, value: Value, recipe: str) -> Any:
    """A recipe's value as the option makes of what is typed."""
    ctx = click.get_current_context()
    option = next((own for own in ctx.command.params if own.name == name), None)
    if option is None:
        raise ConfigError(f"--recipe {recipe}: {ctx.command_path} has no option --{name}")
    try:
        return option.type.convert(str(value).lower() if isinstance(value, bool) else value, option, ctx)
    except click.BadParameter as error:
        raise ConfigError(f"--recipe {recipe}: {name}: {error.message}") from error
