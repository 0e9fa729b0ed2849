"""Options of `pfm train`, as typed, to the configuration of a run."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

from pfm.commands.train import train as train_command
from pfm.training.config import RunConfig


def run_config(options: Sequence[str]) -> RunConfig:
    """What `pfm train` makes of its options."""
    parsed = train_command.make_context("train", list(options), resilient_parsing=False).params
    sections: dict[str, dict[str, Any]] = {}
    hints = typing.get_type_hints(RunConfig)
    for section in dataclasses.fields(RunConfig):
        names = {field.name for field in dataclasses.fields(hints[section.name])}
        sections[section.name] = {name: value for name, value in parsed.items() if name in names}
    return RunConfig.from_dict(sections)
