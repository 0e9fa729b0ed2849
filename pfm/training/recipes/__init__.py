"""Recipes: named sets of options of `pfm train`, a file each, by readout.

A recipe says what an option is where nobody gave it. Its file is TOML: `about`, a sentence, and a table for each
readout that it says something of, named as the readout is. What only holds where adapters are trained, or the whole
backbone, stands in a table of that readout's, named as `--tune` has it (`[cls.lora]`). Such a table may choose another
`tune`; the table of that one then holds too.

Those that come with the package lie beside this file; another one is named by its path. Needs no torch.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfm.errors import ConfigError, explain
from pfm.model.readouts import READOUTS

PAPER = "paper"
SUFFIX = ".toml"
TUNED = ("lora", "full", "prompts")  # what a table inside of a readout's may be named
LARGEST = 1 << 20  # bytes
HERE = Path(__file__).parent

Value = str | int | float | bool


def recipe_names() -> tuple[str, ...]:
    """Of the recipes that come with the package, the default first."""
    return tuple(sorted((path.stem for path in HERE.glob(f"*{SUFFIX}")), key=lambda name: (name != PAPER, name)))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Options by readout.

    Attributes:
        name: its own, or that of the file.
        tables: by readout: options, and tables of options by what is tuned.
    """

    name: str
    about: str
    tables: Mapping[str, Mapping[str, Any]]

    def options(self, readout: str, tune: str, *, follows: bool = True) -> dict[str, Value]:
        """What it says of a readout where `tune` is trained beside prompts and readout.

        Args:
            follows: add what it says of the `tune` that it chooses itself.
        """
        own = self.tables.get(readout, {})
        said = {**{name: value for name, value in own.items() if name not in TUNED}, **own.get(tune, {})}
        further = own.get(said.get("tune", tune), {}) if follows else {}
        return {**said, **{name: value for name, value in further.items() if name not in said}}

    def everything(self) -> Iterator[tuple[str, Value]]:
        """Every option that stands in it, whatever the readout."""
        for readout in self.tables:
            for tune in TUNED:
                yield from self.options(readout, tune).items()


def load_recipe(name: str) -> Recipe:
    """A recipe by its name, or by the path of its file.

    Raises:
        ConfigError: there is none, or it is not a recipe.
    """
    known = HERE / f"{name}{SUFFIX}"
    path = known if name in recipe_names() else Path(name)
    if path is not known and not path.is_file():
        raise ConfigError(
            f"--recipe {name}: neither a recipe ({', '.join(recipe_names())}) nor a file; a file is TOML, with a table "
            "of options for each readout"
        )
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"--recipe {name} has {path.stat().st_size} bytes; {LARGEST} are read")
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--recipe {name}: cannot be read: {explain(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"--recipe {name} is not TOML: {error}") from error
    about = document.pop("about", "")
    for readout, table in document.items():
        if readout not in READOUTS.names() and not isinstance(table, dict):
            raise ConfigError(f"--recipe {name}: {readout} stands in no readout's table")
        if readout not in READOUTS.names():
            raise ConfigError(
                f"--recipe {name}: {readout} is not a readout; tables are named {', '.join(READOUTS.names())}, and "
                "options stand in them"
            )
        _check(table, f"--recipe {name}: {readout}")
    return Recipe(name=path.stem if path is known else path.name, about=str(about), tables=document)


def _check(table: Any, place: str, *, is_inner: bool = False) -> None:
    """Refuse what is not a table of options.

    Raises:
        ConfigError: what it is.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{place} is not a table; options stand in tables that are named as readouts are")
    for name, value in table.items():
        if name in TUNED and not is_inner:
            _check(value, f"{place}, {name}", is_inner=True)
        elif not isinstance(value, str | int | float | bool):
            raise ConfigError(f"{place}, {name}: one value is expected, as on the command line")
