"""The option that all benches have: where their files go."""

from collections.abc import Callable
from typing import Any

import click

from pfm.commands.options import PATH


def out_option(names: str) -> Callable[[Any], Any]:
    """`--out`, a folder for the files of these names."""
    return click.option("--out", default="pfm-bench", type=PATH, help=f"Folder for {names}.")
