"""`--config FILE.yaml`: options of a command in a file; what the command line says wins."""

from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import click
import yaml

from pfm.commands.options import PATH
from pfm.errors import ConfigError, explain

LARGEST = 1 << 20  # bytes


def config_option() -> Callable[[Any], Any]:
    """`--config`; its values count as given (`was_given`)."""
    return click.option(
        "--config",
        type=PATH,
        is_eager=True,  # before the options whose values it has
        expose_value=False,
        callback=_read_into_context,
        help="YAML file of these options, such as `batch_size: 64`; the command line wins.",
    )


def _read_into_context(ctx: click.Context, option: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    known = {str(own.name): own for own in ctx.command.params if isinstance(own, click.Option) and own is not option}
    values: dict[str, Any] = {}
    for key, value in _read(path).items():
        name = key.replace("-", "_") if isinstance(key, str) else str(key)
        if name not in known:
            raise ConfigError(f"{path}: {ctx.command_path} has no option --{name} (see '{ctx.command_path} --help')")
        if name in values:
            raise ConfigError(f"{path}: {name} stands there twice")
        if not isinstance(value, str):
            raise ConfigError(f"{path}: {name}: one value is expected, as on the command line")
        if value in ("null", "Null", "NULL"):
            raise ConfigError(f"{path}: {name}: {value} is not a value; leave the line out for the default")
        try:
            values[name] = known[name].type.convert(value, known[name], ctx)
        except click.BadParameter as error:
            raise ConfigError(f"{path}: {name}: {error.message}") from error
    ctx.default_map = values


def _read(path: Path) -> dict[Hashable, Any]:
    """Keys and values as they are written: `no`, `1e-3` and `08` are text, which the option reads as it does its own.

    Raises:
        ConfigError: no such file, or not a table in YAML.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"--config {path} has {path.stat().st_size} bytes; {LARGEST} are read")
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read: {explain(error)}") from error
    except RecursionError as error:
        raise ConfigError(f"--config {path} is not a table of options: it is nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not YAML: {error}") from error
    if content is None or content == "":
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path}: lines such as `batch_size: 64` are expected")
    return content
