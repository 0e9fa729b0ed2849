"""One artifact of any kind, opened and looked into; a bundle without torch."""

from pathlib import Path

from pfm.errors import CheckpointError
from pfm.forgetting.content import Content, checkpoint_content
from pfm.options import expanded
from pfm_export.serving.content import bundle_content
from pfm_export.serving.manifest import is_bundle


def open_content(path: Path) -> Content:
    """What is in an artifact.

    Raises:
        PfmError: nothing is there, or nothing that can hold classes.
    """
    path = expanded(path)
    if is_bundle(path):
        return bundle_content(path)
    if not path.exists():
        raise CheckpointError(f"there is no artifact {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder and not an artifact (a checkpoint file or a bundle)")
    return checkpoint_content(path)
