"""Markdown tables."""

from collections.abc import Mapping, Sequence

from pfm_bench.measuring.stats import Interval


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """A table whose headings are the keys of the first row; cells that are numbers stand to the right."""
    if not rows:
        return ""
    titles = list(rows[0])
    text = {title for title in titles if any(row[title][:1].isalpha() for row in rows)}
    lines = ["| " + " | ".join(titles) + " |", "|" + "|".join("---" if t in text else "---:" for t in titles) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row[title] for title in titles) + " |" for row in rows)])


def show_interval(interval: Interval, digits: int) -> str:
    """`0.79–0.84`."""
    return "–".join(f"{limit:.{digits}f}" for limit in interval)


def show_percent(share: float | None) -> str:
    """`81%`; nothing for None."""
    return "" if share is None else f"{share:.0%}"
