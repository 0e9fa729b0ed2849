"""Many runs of the same figures as one table: each figure's path once, and a row of values a run.

A result file of sixty audits names every figure sixty times; as a table it is a quarter as large.
"""

from collections.abc import Iterator, Mapping
from typing import Any

ABSENT = ""  # in the place of a figure that a run does not have
MARK = "#"  # before a number in a list of records


def pack(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Runs of nested figures -> {"columns": paths, "rows": {run: values}}."""
    flat = {name: dict(_flat(run, "")) for name, run in runs.items()}
    columns = list(dict.fromkeys(path for row in flat.values() for path in row))
    return {"columns": columns, "rows": {name: [row.get(c, ABSENT) for c in columns] for name, row in flat.items()}}


def unpack(packed: Mapping[str, Any]) -> dict[str, Any]:
    """What `pack` was given."""
    return {name: _nested(zip(packed["columns"], row, strict=True)) for name, row in packed["rows"].items()}


def runs_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """The runs of a result file, packed or, as older ones are, not."""
    runs = document["runs"]
    return unpack(runs) if set(runs) == {"columns", "rows"} else dict(runs)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            assert "/" not in str(key)
            assert not str(key).startswith(MARK)
            yield from _flat(item, f"{path}/{key}" if path else str(key))
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, item in enumerate(value):
            yield from _flat(item, f"{path}/{MARK}{number}")
    else:
        yield path, value


def _nested(cells: Any) -> Any:
    found: dict[str, Any] = {}
    for path, value in cells:
        if isinstance(value, str) and value == ABSENT:
            continue
        *way, last = path.split("/")
        place = found
        for step in way:
            place = place.setdefault(step, {})
        place[last] = value
    return _with_lists(found)


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    items = {key: _with_lists(item) for key, item in value.items()}
    return list(items.values()) if items and all(key.startswith(MARK) for key in items) else items
