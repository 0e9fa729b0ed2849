"""A dataclass field that is an option of a command as well; knows no click, so that serving needs none."""

import dataclasses
import enum
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Choices = tuple[str, ...] | Callable[[], tuple[str, ...]]
LARGEST_SEED = 2**63 - 1  # what torch's generators take
_HOME = re.compile(r"^([a-z_]+:)?~(?=$|[/\\])")  # `~/data`, and `imagefolder:~/data`
T = TypeVar("T", str, Path)


class Section(enum.StrEnum):
    """Headings of `--help`, in the order in which they are shown."""

    DATA = "Data"
    MODEL = "Model"
    LORA = "LoRA"
    EXACT = "Exact readout (--readout ridge)"
    OPTIMISATION = "Optimisation"
    SAVING = "Saving and resuming"
    SPEED = "Speed and memory"
    AUGMENTATION = "Augmentation"
    EVALUATION = "Evaluation"
    DEVICE = "Device"
    SERVICE = "Service"
    LIMITS = "Limits"


def option(
    default: Any,
    help: str,
    *,
    choices: Choices | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    section: Section | None = None,
    is_path: bool = False,
    is_flag: bool = False,
    may_be_empty: bool = False,
) -> Any:
    """A dataclass field that is an option as well.

    Args:
        choices: the values it takes, or what lists them when the command line is read, such as a registry's `names`.
        section: of `--help`, where it is not that of the class, its `section`.
        is_path: it is a path, or may be one; see `expand_paths`.
        is_flag: of a bool: there is no option that says no.
        may_be_empty: of a text: it may be typed as "".
    """
    facts = {"help": help, "choices": choices, "minimum": minimum, "maximum": maximum, "section": section}
    facts |= {"is_path": is_path, "is_flag": is_flag, "may_be_empty": may_be_empty}
    return dataclasses.field(default=default, metadata=facts)


def expanded(path: T) -> T:
    """A path with the user's home in place of a `~` at its start, also behind a prefix such as `imagefolder:`."""
    home = os.path.expanduser("~")
    return type(path)(_HOME.sub(lambda match: f"{match[1] or ''}{home}", str(path), count=1))


def expand_paths(config: Any) -> None:
    """Expand `~` in the fields of a config that are paths; for its `__post_init__`."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("is_path") and value is not None:
            object.__setattr__(config, field.name, expanded(value))  # frozen for everybody else
