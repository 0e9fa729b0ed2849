"""Where the prompt and the classifier row of a class start: one file a start, each declared by a line here.

A trained prompt is a key that the shared weights answer to. One that starts from large numbers stays close to them, so
whoever can draw the start again has the key; see `Start.follows`. Nothing here imports torch until rows are filled.
"""

from pfm.model.starts.base import KeySource, Start
from pfm.registry import Registry

__all__ = ["STARTS", "KeySource", "Start", "follows", "stated"]

STARTS: Registry[Start] = Registry("prompt start")
STARTS.declare("common", "pfm.model.starts.common:COMMON")
STARTS.declare("data", "pfm.model.starts.data:DATA")
STARTS.declare("secret", "pfm.model.starts.secret:SECRET")
STARTS.declare("seed", "pfm.model.starts.seed:SEED")

UNSTATED = "seed"  # of checkpoints and bundles that do not say: older ones, and those of the paper's tool


def follows(start: str) -> str:
    """What somebody who holds a file of this start can draw again of an erased class, as a sentence.

    Args:
        start: as the file states it; "" where it does not.
    """
    return STARTS.get(start or UNSTATED).follows


def stated(start: str, **more: str) -> dict[str, str]:
    """Name and sentence of a start, for a document."""
    return {"name": start or UNSTATED, "follows": follows(start), **{key: text for key, text in more.items() if text}}
