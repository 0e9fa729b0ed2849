"""Figures of an earlier evaluation under the same name."""

import json
from pathlib import Path

from pfm.errors import ConfigError


def check_same_data(stem: Path | str, dataset: str) -> None:
    """Refuse to replace the figures of another data set that has the same name.

    Args:
        stem: of the files' names.
        dataset: as `--dataset` has it, with its whole path.

    Raises:
        ConfigError: they are there.
    """
    path = Path(f"{stem}_evaluation.json")
    try:
        before = json.loads(path.read_text())["dataset"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # there are none, or nobody knows of what
    if before != dataset:
        raise ConfigError(
            f"{path} is of another data set of this name ({before}; now it is {dataset}); give another --save_dir, or "
            "move it away"
        )
