"""From the fields of a config dataclass to the options of a command, so that a default is written once."""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:  # commands that need no torch take their options from here too
    from pfm.data.config import DataConfig
    from pfm.model.checkpoint import Checkpoint

from pfm.commands.sections import SectionedOption, section_of
from pfm.errors import ConfigError
from pfm.options import LARGEST_SEED, expanded
from pfm.registry import load_plugins

CONTEXT_SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    # `--batch-size` and `--batch_size` are the same option
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "max_content_width": 110,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """Those fields of a config that are options of a command; the others keep their defaults.

    Attributes:
        is_of_run: the data of a checkpoint's run, see `data_of_run`; its options are printed with that default.
    """

    config: type
    names: tuple[str, ...]
    is_of_run: bool = False


def only(config: type, *names: str) -> Part:
    """The fields of these names."""
    return Part(config, names)


def all_but(config: type, *names: str) -> Part:
    """The fields but those of these names."""
    return Part(config, tuple(field.name for field in dataclasses.fields(config) if field.name not in names))


def of_run(config: type) -> Part:
    """All fields but those that a checkpoint decides, for a command that takes the data of a checkpoint's run where
    --dataset names no other."""
    return dataclasses.replace(all_but(config, *getattr(config, "of_training", ())), is_of_run=True)


def with_options(**configs: type | Part) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a click command one option per field; the command receives built configs by these keywords."""
    parts = {name: config if isinstance(config, Part) else all_but(config) for name, config in configs.items()}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**values: Any) -> Any:
            built = {}
            for name, part in parts.items():
                built[name] = part.config(**{field: values.pop(field) for field in part.names})
            return function(**built, **values)

        command.option_parts = parts  # type: ignore[attr-defined]  # for whoever asks a command what it takes
        # click keeps parameters on the function it decorates, last decorator first
        command.__click_params__ = list(getattr(function, "__click_params__", []))  # type: ignore[attr-defined]
        for part in reversed(parts.values()):
            hints = typing.get_type_hints(part.config)
            for field in reversed(dataclasses.fields(part.config)):
                if field.name in part.names:
                    shown = {"help": _help(field, part), "section": section_of(part.config, field)}
                    # "" says that the run's own is not wanted; which data is, has to be said
                    may_be_empty = field.metadata["may_be_empty"] or (part.is_of_run and field.name != "dataset")
                    text = click.STRING if may_be_empty else TEXT
                    _as_click_option(field, hints[field.name], shown, text)(command)
        return command

    return decorate


class _Path(click.Path):
    """A path in which `~` is the user's home, also where no shell saw it, as behind `--out=`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # as of a variable of the shell that is not set; it would be the folder one is in
            self.fail("is empty; name a file or folder", param, ctx)
        return super().convert(expanded(value), param, ctx)


PATH = _Path()


class _Text(click.types.StringParamType):
    """A text that is not typed as "", which is what a shell makes of a variable that is not set."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        source = ctx.get_parameter_source(param.name or "") if ctx and param else None
        if value == "" and source is ParameterSource.COMMANDLINE:  # a default may be empty
            self.fail("is empty; say what it is to be, or leave it out", param, ctx)
        return super().convert(value, param, ctx)


TEXT = _Text()


class _WholeNumber(click.IntRange):
    """Numbers from `minimum` up; a largest one that nobody reaches by counting is told only to who is above it."""

    def __init__(self, minimum: int, maximum: int | None) -> None:
        super().__init__(minimum)
        self._maximum = maximum

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if self._maximum is not None and number > self._maximum:
            self.fail(f"{number} is larger than {self._maximum}", param, ctx)
        return number


SEED = _WholeNumber(0, LARGEST_SEED)


class _FiniteFloat(click.FloatRange):
    """A range lets nan through, since nothing compares with it; no option of ours takes inf either."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number", param, ctx)
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


def _help(field: "dataclasses.Field[Any]", part: Part) -> str:
    text = field.metadata["help"]
    if not part.is_of_run:
        return text
    text, _, own = text.partition("  [default: ")
    if field.name == "dataset":
        return f"{text}  [default: the run's own]"
    own = own.rstrip("]") or {False: "no", "": "none"}.get(field.default, str(field.default))
    return f"{text}  [default: the run's own; with --dataset: {own}]"


def _as_click_option(
    field: "dataclasses.Field[Any]", hint: Any, shown: Mapping[str, Any], text: click.ParamType
) -> Callable[[Any], Any]:
    if isinstance(hint, types.UnionType):  # `int | None`
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    name = f"--{field.name.rstrip('_')}"  # a field cannot be called `class`
    shared: dict[str, Any] = {"default": field.default, "cls": SectionedOption, **shown}
    if field.default is None or field.default in ("", ()) or "[default: " in shown["help"]:
        shared["show_default"] = False
    if hint is bool and field.metadata["is_flag"]:
        return click.option(name, is_flag=True, **shared)
    if hint is bool:
        return click.option(f"{name}/--no_{field.name}", **shared)
    if typing.get_origin(hint) is tuple:  # `tuple[str, ...]`: as often as one likes
        return click.option(name, field.name, multiple=True, type=text, **shared)
    choices: tuple[str, ...] | Callable[[], tuple[str, ...]] | None = field.metadata["choices"]
    if choices:
        kind = click.Choice(choices) if isinstance(choices, tuple) else _OpenChoice(choices)
        return click.option(name, type=kind, **shared)
    minimum, maximum = field.metadata["minimum"], field.metadata["maximum"]
    if hint is int and minimum is not None:
        return click.option(name, type=_WholeNumber(int(minimum), maximum), **shared)
    if hint is Path:
        return click.option(name, type=PATH, **shared)
    if hint is float:
        return click.option(name, type=_FiniteFloat(min=minimum), **shared)
    return click.option(name, type=text if hint is str else hint, **shared)


def was_given(name: str) -> bool:
    """Whether the user gave this option of the running command, in the command line or in a file of `--config`."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in (ParameterSource.DEFAULT, None)


def data_of_run(checkpoint: "Checkpoint", given: "DataConfig") -> "DataConfig":
    """The data set of the training run, each option overridden where the user typed it.

    Raises:
        ConfigError: the checkpoint does not say what it was trained on, and the user did not either.
    """
    stored = checkpoint.run.get("data", {})
    typed = {field.name: getattr(given, field.name) for field in dataclasses.fields(given) if was_given(field.name)}
    if "dataset" in typed:
        return given
    if "dataset" not in stored:
        raise ConfigError("the checkpoint does not say which data it was trained on; name the data with --dataset")
    known = {field.name: stored[field.name] for field in dataclasses.fields(given) if field.name in stored}
    if checkpoint.data_commit:  # not what the branch is by now
        known["data_revision"] = checkpoint.data_commit
    found = dataclasses.replace(given, **{**known, **typed})
    if found.place is not None and not found.place.exists():
        raise ConfigError(
            f"the run was trained on {found.dataset}, which is not there; if it was moved, say where it is now with "
            "--dataset"
        )
    return found
