"""From the fields of a config dataclass to the options of a command, so that a default is written once."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:  # commands that need no torch take their options from here too
    from pfm.data.config import DataConfig
    from pfm.model.checkpoint import Checkpoint

from pfm.commands.sections import SectionedOption, section_of
from pfm.options import LARGEST_SEED, Section, expanded
from pfm.registry import load_plugins

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    # `--batch-size` and `--batch_size` are the same option
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "max_content_width": 110,
}


def with_options(**configs: type) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command one option per field; the command receives built configs by these keywords."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            built = {}
            for name, config in configs.items():
                own = {field.name: values.pop(field.name) for field in dataclasses.fields(config)}
                built[name] = config(**own)
            return function(**built, **values)

        # click keeps parameters on the function it decorates, last decorator first
        command.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for config in reversed(configs.values()):
            hints = typing.get_type_hints(config)
            for field in reversed(dataclasses.fields(config)):
                _as_click_option(field, hints[field.name], section_of(config, field))(command)
        return command

    return decorate


class _Path(click.Path):
    """A path in which `~` is the user's home, also where no shell saw it, as behind `--out=`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return super().convert(expanded(value), param, ctx)


PATH = _Path()
SEED = click.IntRange(0, LARGEST_SEED)


class _FiniteFloat(click.FloatRange):
    """A range lets nan through, since nothing compares with it; no option of ours takes inf either."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no finite number", param, ctx)
        return number


class _OpenChoice(click.Choice[str]):
    """One of the names that are registered when the command line is read."""

    def __init__(self, names: Callable[[], tuple[str, ...]]) -> None:
        super().__init__(names())
        self._names = names

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        self.choices = self._names()
        if value not in self.choices:
            load_plugins()
            self.choices = self._names()
        return super().convert(value, param, ctx)


def _as_click_option(field: "dataclasses.Field[Any]", hint: Any, section: Section | None) -> Callable[[Any], Any]:
    if isinstance(hint, types.UnionType):  # `int | None`
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    name = f"--{field.name}"
    shared: dict[str, Any] = {"default": field.default, "help": field.metadata["help"]}
    shared |= {"cls": SectionedOption, "section": section}
    if field.default is None or field.default == "":
        shared["show_default"] = False
    if hint is bool:
        return click.option(f"{name}/--no_{field.name}", **shared)
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = field.metadata["choices"]
    if choices:
        kind = click.Choice(choices) if isinstance(choices, tuple) else _OpenChoice(choices)
        return click.option(name, type=kind, **shared)
    minimum, maximum = field.metadata["minimum"], field.metadata["maximum"]
    if hint is int and minimum is not None:
        return click.option(name, type=click.IntRange(int(minimum), maximum), **shared)
    if hint is Path:
        return click.option(name, type=PATH, **shared)
    if hint is float:
        return click.option(name, type=_FiniteFloat(min=minimum), **shared)
    return click.option(name, type=hint, **shared)


def was_given(name: str) -> bool:
    """Whether the user gave this option of the running command, in the command line or in a file of `--config`."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, None)


def data_of_run(checkpoint: "Checkpoint", given: "DataConfig") -> "DataConfig":
    """The data set of the training run, each option overridden where the user typed it."""
    stored = checkpoint.run.get("data", {})
    typed = {field.name: getattr(given, field.name) for field in dataclasses.fields(given) if was_given(field.name)}
    if "dataset" in typed:
        return given
    known = {field.name: stored[field.name] for field in dataclasses.fields(given) if field.name in stored}
    return dataclasses.replace(given, **{**known, **typed})
