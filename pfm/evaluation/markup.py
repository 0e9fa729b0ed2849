"""Pieces of a page that needs nothing else: a table, a picture that is part of it, and the page around them.

Texts are HTML already; what came from outside (names of classes and models) is escaped by who passes it.
"""

import base64
from collections.abc import Iterable, Sequence

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd}
td,th{text-align:right}td:first-child,th:first-child,.text{text-align:left}img{max-width:100%;height:auto}
.wide{overflow-x:auto}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#16181c}td,th{border-color:#444}}
@media print{body{margin:0;max-width:none;font-size:11pt;color:#000;background:#fff}.wide{overflow:visible}
table{font-size:8pt;width:100%}td,th{padding:.15rem .3rem;overflow-wrap:anywhere;border-color:#aaa}
thead{display:table-header-group}tr,img{break-inside:avoid}h1,h2,h3{break-after:avoid}img{max-height:12cm;width:auto}}
"""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, is_text: bool = False) -> str:
    """A table; `is_text` sets every column to the left and not only the first.

    Its head is one, so that print repeats it on the next sheet; a table that is wider than the page can be scrolled.
    """
    kind = ' class="text"' if is_text else ""
    body = "".join("<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    heads = "".join(f"<th{kind}>{name}</th>" for name in head)
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(alt: str, png: bytes) -> str:
    """A PNG inside the page."""
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """The whole document; pictures are in it, and no network is asked.

    Args:
        style: CSS beyond that of every page.
    """
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}{style}</style></head><body>{"".join(parts)}</body></html>\n'
    )
