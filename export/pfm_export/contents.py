"""One artifact of any kind, opened and looked into; a bundle without torch."""

import dataclasses
from pathlib import Path

from pfm.errors import CheckpointError
from pfm.forgetting.artifacts import Verdict
from pfm.forgetting.content import Content, checkpoint_content
from pfm.options import expanded
from pfm_export.serving.artifacts import look_at
from pfm_export.serving.content import bundle_content
from pfm_export.serving.manifest import is_bundle


def open_content(path: Path) -> Content:
    """What is in an artifact.

    Raises:
        PfmError: nothing is there, or nothing that can hold classes.
    """
    path = expanded(path)
    if is_bundle(path):
        content = bundle_content(path, solves=True)
        return dataclasses.replace(content, unknown=tuple(file for file in content.unknown if not _is_clean(file)))
    if not path.exists():
        raise CheckpointError(f"there is no artifact {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder and not an artifact (a checkpoint file or a bundle)")
    return checkpoint_content(path, solves=True)


def _is_clean(file: Path) -> bool:
    """Whether a file that a bundle does not name can be seen to hold no class, as a picture or a README does."""
    if not file.is_file():
        return False
    return all(seen.verdict is Verdict.CLEAN for seen in look_at([file]).seen.values())
