"""Suspend: a prompt is left out of one active set. Reversible; no byte changes."""

from pfm.classes import ClassKeys, ClassList
from pfm.errors import ClassNameError


def active_positions(classes: ClassList, suspended: ClassKeys) -> list[int]:
    """Positions that stay active when some classes are suspended.

    Raises:
        ClassNameError: an unknown class, or all of them.
    """
    away = classes.positions(suspended)
    if len(away) == len(classes):
        raise ClassNameError("every class is suspended; leave at least one active")
    return [position for position in range(len(classes)) if position not in away]
