"""`--recipe`: what options of `pfm train` are where the user did not give them.

What the user gave wins: over an option of the same name, and over one that does not go with it, which is left out and
named.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import click

from pfm.commands.options import was_given
from pfm.commands.unheeded import refuse_adapters
from pfm.errors import ConfigError
from pfm.training.config import RunConfig, tune_of
from pfm.training.recipes import Value, load_recipe

BEFORE = ("recipe", "readout", "model_name")  # which table holds depends on these

Configs = Mapping[str, Any]  # of the running command, by section
Values = Mapping[str, Any]  # by option


def with_recipe(configs: Configs) -> Configs:
    """The configs with what their recipe says.

    Raises:
        ConfigError: there is no such recipe; or it says something that the command does not take, or that does not go
            together whatever the user gave.
    """
    model, chosen = configs["model"], configs["recipe"]
    recipe, tune = load_recipe(chosen.recipe), tune_of(model, configs["backbone"])
    names = {field.name for config in configs.values() for field in dataclasses.fields(config)}
    for name, value in recipe.everything():  # also for readouts that this run does not take
        if name not in names or name in BEFORE:
            raise ConfigError(f"--recipe {recipe.name}: {name} is not an option that a recipe can say")
        _converted(name, value, recipe.name)

    def said(*, follows: bool) -> Values:
        options = recipe.options(model.readout, tune, follows=follows)
        return {name: _converted(name, value, recipe.name) for name, value in options.items()}

    kept = _fitting(configs, said(follows=False))
    if "tune" in kept:
        kept = _fitting(configs, said(follows=True))
    left_out = {
        name: value for name, value in said(follows=True).items() if name not in kept and not was_given(name)
    }  # fmt: skip
    made = dict(_replaced(configs, kept))
    made["recipe"] = dataclasses.replace(chosen, recipe=recipe.name, chose=_typed(kept), left_out=_typed(left_out))
    return made


def _fitting(configs: Configs, said: Values) -> Values:
    """Those of a recipe's options that the user did not give, and that go with what the user gave.

    Raises:
        ConfigError: they do not go with each other, or nothing goes with what the user gave.
    """
    left = {name: value for name, value in said.items() if not was_given(name)}
    problem = _problem(configs, left)
    if problem is None or not left:  # else the user's own, of which the run says more
        return left
    if _problem(_as_if_not_given(configs), said, knows_given=False) is not None:
        raise problem
    kept: dict[str, Any] = {}
    while True:
        more = next((n for n in left if n not in kept and not _problem(configs, {**kept, n: left[n]})), None)
        if more is None:
            break
        kept[more] = left[more]
    if not kept and _problem(configs, {}) is not None:
        raise problem
    return kept


def _problem(configs: Configs, values: Values, *, knows_given: bool = True) -> ConfigError | None:
    """Why a run with these values is refused.

    Args:
        knows_given: look also at options that the user gave and that would not be heeded.
    """
    try:
        config = RunConfig(**_replaced(configs, values))
        config.objective.check_share(tune_of(config.model, config.backbone))
        if knows_given:
            refuse_adapters(config)
    except ConfigError as error:
        return error
    return None


def _replaced(configs: Configs, values: Values) -> Configs:
    return {
        section: dataclasses.replace(
            config, **{field.name: values[field.name] for field in dataclasses.fields(config) if field.name in values}
        )
        for section, config in configs.items()
    }


def _as_if_not_given(configs: Configs) -> Configs:
    """With the default of every option, but those that choose a recipe's table."""
    kept = (*BEFORE, "tune")
    fields = [field for config in configs.values() for field in dataclasses.fields(config)]
    return _replaced(configs, {f.name: f.default for f in fields if was_given(f.name) and f.name not in kept})


def _typed(values: Values) -> str:
    return ", ".join(f"--{name} {value}" for name, value in values.items())


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
