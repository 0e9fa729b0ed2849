"""What an earlier run left under the same name: refused where it was of other data, named where it is replaced."""

import contextlib
import json
from pathlib import Path
from typing import Any

from pfm.data.config import DataConfig
from pfm.errors import ConfigError, PfmError
from pfm.model.checkpoint import load_checkpoint
from pfm.training.saving import RunFiles

SHOWN = 3  # files that are named


def replaced(files: RunFiles, data: DataConfig) -> str:
    """What a run that starts anew will replace, in a sentence; "" where there is nothing.

    Raises:
        ConfigError: the files of that name are of a run on another data set.
    """
    epochs = [path for _, path in files.epochs()]
    found = [*epochs, *(path for path in (files.state, files.best, files.accuracies, files.summary) if path.exists())]
    if not found:
        return ""
    before, now = _dataset_of(files, epochs), data.placed().dataset
    if before and before != now:
        raise ConfigError(
            f"{files.folder} holds files of a run on another data set of this name ({before}; now it is {now}), such "
            f"as {found[0].name}; give another --save_dir, or move them away"
        )
    names = ", ".join(path.name for path in found[:SHOWN]) + (f" and {len(found) - SHOWN} more" * (len(found) > SHOWN))
    return f"note: {files.folder} holds an earlier run of this name, whose files are replaced one by one: {names}"


def _dataset_of(files: RunFiles, epochs: list[Path]) -> str:
    """Which data the earlier run was trained on, by its log, its summary or its newest checkpoint; "" if none says."""
    records: list[dict[str, Any]] = []
    if files.log.exists():
        for line in files.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue  # half a line, of a run that was killed
            if isinstance(record, dict) and isinstance(record.get("config"), dict):
                records.append(record["config"])
    elif files.summary.exists():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            records.append(json.loads(files.summary.read_text())["config"])
    elif epochs:
        try:
            records.append(dict(load_checkpoint(epochs[-1]).run))
        except PfmError:
            return ""  # whoever resumes from it will be told
    stored = records[-1].get("data", {}).get("dataset", "") if records else ""
    return DataConfig(dataset=stored).placed().dataset if stored else ""
