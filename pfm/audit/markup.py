"""Pieces of a page: a table, a picture that is part of it, a verdict in its colour.

Texts are HTML already; what came from outside (names of classes and models) is escaped by who passes it.
"""

import base64
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: bool = False) -> str:
    """A table; `is_text` sets every column to the left and not only the first."""
    kind = ' class="text"' if is_text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th{kind}>{name}</th>' for name in head)}</tr>{body}</table>"


def picture(alt: str, png: bytes) -> str:
    """A PNG inside the page."""
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def verdict(value: str) -> str:
    """A verdict in its colour."""
    return f'<span class="v {value}">{value}</span>'


def counted(number: int, what: str) -> str:
    """1 sample, 2 samples."""
    return f"{number} {what}" + "s" * (number != 1)
