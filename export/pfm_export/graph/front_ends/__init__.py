"""What the graph side knows of each input kind: nodes in front of a graph, and how parity and accuracy feed it."""

from typing import Any

from pfm.registry import Registry
from pfm_export.graph.front_ends.base import FrontEnd, ParityInput
from pfm_export.graph.front_ends.images import ImageFrontEnd
from pfm_export.graph.front_ends.samples import RawSampleEnd, SampleEnd
from pfm_export.graph.front_ends.sounds import SoundFrontEnd
from pfm_export.serving.kinds import INPUT_KINDS

__all__ = ["FRONT_ENDS", "FrontEnd", "ParityInput"]

FRONT_ENDS: Registry[type[FrontEnd[Any]]] = Registry("front end for the input kind")
FRONT_ENDS.register("images", ImageFrontEnd)
FRONT_ENDS.register("waveform", SoundFrontEnd)
FRONT_ENDS.register("samples", SampleEnd)
FRONT_ENDS.register("raw_samples", RawSampleEnd)
for _kind in INPUT_KINDS:
    if _kind.is_model_input and _kind.name not in FRONT_ENDS:  # which needs nothing in front
        FRONT_ENDS.register(_kind.name, FrontEnd)
