"""Pieces of an audit's page, beside those of every page: a verdict in its colour, and counts in words."""

from pfm.evaluation.markup import page, picture, table

__all__ = ["counted", "page", "picture", "table", "verdict"]


def verdict(value: str) -> str:
    """A verdict in its colour."""
    return f'<span class="v {value}">{value}</span>'


def counted(number: int, what: str) -> str:
    """1 sample, 2 samples."""
    return f"{number} {what}" + "s" * (number != 1)
