"""`--class` and `--classes`: how a command line names classes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from pfm.classes import ClassList, Typed, names_meant, split_names
from pfm.options import option

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class ClassChoice:
    """The classes that were typed."""

    class_: tuple[str, ...] = option(
        (), "Name of a class, exactly as it is, commas and blanks included; give it once for each class."
    )
    classes: str = option(
        "",
        "Simple names, separated by commas. A number that is no class's name is a position as pfm show prints it.",
    )

    def typed(self) -> list[Typed]:
        """What was typed, class by class.

        Raises:
            UsageError: nothing.
        """
        if not self.class_ and not self.classes:
            context = click.get_current_context(silent=True)
            if context is None or context.get_parameter_source("classes") in (None, click.core.ParameterSource.DEFAULT):
                raise click.UsageError("Missing option '--class' or '--classes'.", context)
        entries = [Typed(name, is_literal=True) for name in self.class_]
        if self.classes or not self.class_:
            entries += [Typed(text) for text in split_names(self.classes)]
        return entries

    def names(self, known: Mapping[str, ClassList]) -> list[str]:
        """The names of the classes; see `pfm.classes.names_meant`.

        Raises:
            ClassNameError: there is no such class, or a number that is not the same class everywhere.
        """
        return names_meant(self.typed(), known)

    def names_in(self, checkpoint: "Checkpoint") -> list[str]:
        """The names of classes of one checkpoint, there or erased before."""
        return self.names({"the checkpoint": checkpoint.classes.with_erased(checkpoint.erased)})
