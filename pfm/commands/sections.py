"""`--help` of a command with many options: headed sections, first those that most people need."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import click

from pfm.options import Section

FIRST = "What most people need"
OTHER = "Options"


class SectionedOption(click.Option):
    """An option that knows its section of `--help`."""

    def __init__(self, *args: Any, section: Section | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.section = section


class SectionedCommand(click.Command):
    """A command whose `--help` has sections; options that have none stand in front.

    Args:
        first: names of the options that most people need, in the order in which they are shown.
    """

    def __init__(self, *args: Any, first: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = tuple(first)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options section by section."""
        options = [parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)]
        ordered = sorted(options, key=lambda option: _place(self.first, option.name))
        parts: dict[str, list[tuple[str, str]]] = {name: [] for name in (FIRST, OTHER, *Section)}
        for parameter in ordered:
            record = parameter.get_help_record(ctx)
            section = getattr(parameter, "section", None) or OTHER
            if parameter.name in self.first or (self.first and section == OTHER):
                section = FIRST
            if record is not None:
                parts[section].append(record)
        for title, records in parts.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def _place(first: Sequence[str], name: str | None) -> int:
    return first.index(name) if name in first else len(first)


def section_of(config: type, field: "dataclasses.Field[Any]") -> Section | None:
    """The section of a field: its own, or that of the class that declares it."""
    owner = next(base for base in config.__mro__ if field.name in inspect.get_annotations(base))
    return field.metadata["section"] or vars(owner).get("section")
