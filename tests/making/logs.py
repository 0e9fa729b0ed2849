"""The log of a run, which may be written to while it is read."""

import json
from pathlib import Path
from typing import Any


def log_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON lines, if there is one; a line that has no end yet is not one of them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def last_step(path: Path) -> int:
    """The furthest step in the log of a run; 0 for none."""
    return max((record.get("step", 0) for record in log_records(path)), default=0)
