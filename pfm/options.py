"""A dataclass field that is an option of a command as well; knows no click, so that serving needs none."""

import dataclasses
from collections.abc import Callable
from typing import Any

Choices = tuple[str, ...] | Callable[[], tuple[str, ...]]


def option(
    default: Any,
    help: str,
    *,
    choices: Choices | None = None,
    minimum: float | None = None,
) -> Any:
    """A dataclass field that is an option as well.

    Args:
        choices: the values it takes, or what lists them when the command line is read, such as a registry's `names`.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})
