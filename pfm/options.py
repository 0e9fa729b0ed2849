"""A dataclass field that is an option of a command as well; knows no click, so that serving needs none."""

import dataclasses
from typing import Any


def option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    minimum: float | None = None,
) -> Any:
    """A dataclass field that is an option as well."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})
