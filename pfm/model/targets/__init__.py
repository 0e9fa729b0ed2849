"""What a model is to answer when the own prompt is absent: one file a target, each declared by a line here."""

from typing import TYPE_CHECKING, Any

from pfm.registry import Registry

if TYPE_CHECKING:
    from pfm.model.targets.base import Target

__all__ = ["TARGETS", "Target"]

TARGETS: Registry["Target"] = Registry("target without the own prompt")
TARGETS.declare("uniform", "pfm.model.targets.uniform:UNIFORM")
TARGETS.declare("others", "pfm.model.targets.others:OTHERS")
TARGETS.declare("none", "pfm.model.targets.none:NONE_OF_THESE")


def __getattr__(name: str) -> Any:
    if name == "Target":  # its module imports torch, which the names of the targets need not
        from pfm.model.targets.base import Target

        return Target
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
