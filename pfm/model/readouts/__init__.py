"""How class scores are read off the transformer's outputs: one file a readout, each registered by a line here."""

from pfm.model.readouts.base import READOUTS, Readout
from pfm.model.readouts.cls import Cls
from pfm.model.readouts.prompt import Prompt

READOUTS.register("cls", Cls())
READOUTS.register("prompt", Prompt())

__all__ = ["READOUTS", "Readout"]
