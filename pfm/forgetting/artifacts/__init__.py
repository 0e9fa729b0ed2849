"""What can hold a class: one file a kind, in the order in which a file is asked whether it is of that kind.

Other rooms and packages register kinds of their own: bundles, banks and graphs come from `pfm_export`.
"""

from pfm.forgetting.artifacts.kind import (
    ArtifactKind,
    FolderKind,
    Holding,
    HoldingKind,
    Look,
    Request,
    Rewritten,
    RowsOf,
    Verdict,
)
from pfm.registry import Registry

__all__ = [
    "ARTIFACT_KINDS",
    "FOLDER_KINDS",
    "ArtifactKind",
    "FolderKind",
    "Holding",
    "HoldingKind",
    "Look",
    "Request",
    "Rewritten",
    "RowsOf",
    "Verdict",
]

ARTIFACT_KINDS: Registry[ArtifactKind] = Registry("kind of file")
FOLDER_KINDS: Registry[FolderKind] = Registry("kind of folder")

_HERE = "pfm.forgetting.artifacts"
FOLDER_KINDS.declare("decoded inputs", f"{_HERE}.decoded:DECODED")
ARTIFACT_KINDS.declare("checkpoint", f"{_HERE}.checkpoints:CHECKPOINT")
ARTIFACT_KINDS.declare("keys", f"{_HERE}.keys:KEYS")
ARTIFACT_KINDS.declare("run", f"{_HERE}.runs:RUNNING")
ARTIFACT_KINDS.declare("empty", f"{_HERE}.harmless:EMPTY")
ARTIFACT_KINDS.declare("picture", f"{_HERE}.harmless:PICTURE")
ARTIFACT_KINDS.declare("sound", f"{_HERE}.harmless:SOUND")
ARTIFACT_KINDS.declare("tensorboard", f"{_HERE}.harmless:EVENTS")
ARTIFACT_KINDS.declare("data", f"{_HERE}.harmless:DATA")
ARTIFACT_KINDS.declare("text", f"{_HERE}.text:TEXT")
