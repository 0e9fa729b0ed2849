"""The option that all benches have: where their files go."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def out_option(names: str) -> Callable[[Any], Any]:
    """`--out`, a folder for the files of these names."""
    return click.option("--out", default="pfm-bench", type=click.Path(path_type=Path), help=f"Folder for {names}.")
