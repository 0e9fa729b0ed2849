"""How class scores are read off the transformer's outputs: one file a readout, each declared by a line here."""

from typing import TYPE_CHECKING, Any

from pfm.registry import Registry

if TYPE_CHECKING:
    from pfm.model.readouts.base import Readout

__all__ = ["READOUTS", "Readout"]

READOUTS: Registry["Readout"] = Registry("readout")
READOUTS.declare("cls", "pfm.model.readouts.cls:CLS")
READOUTS.declare("prompt", "pfm.model.readouts.prompt:PROMPT")
READOUTS.declare("ridge", "pfm.model.readouts.ridge:RIDGE")


def __getattr__(name: str) -> Any:
    if name == "Readout":  # its module imports torch, which the names of the readouts need not
        from pfm.model.readouts.base import Readout

        return Readout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
