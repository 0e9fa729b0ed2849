"""The kinds of input there are, by name; what computes with them is imported when a kind is asked for.

A model says how its data is stored and preprocessed: sounds as log-mel features, or as samples.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pfm.registry import Registry

if TYPE_CHECKING:
    from pfm.data.inputs import Preprocess, Storage


@dataclass(frozen=True)
class InputKind:
    """A kind of data.

    Attributes:
        storage: one way to store it, which speaks for all of them of what they share.
    """

    storage: type["Storage"]


KINDS: Registry[InputKind] = Registry("kind of input")
KINDS.declare("image", "pfm.data.images:IMAGES")
KINDS.declare("audio", "pfm.data.sounds:SOUNDS")

# by the name that a checkpoint has for it: all that makes model input of what is stored
PREPROCESSES: Registry[type["Preprocess"]] = Registry("preprocessing")
PREPROCESSES.declare("image", "pfm.data.images:ImagePreprocess")
PREPROCESSES.declare("audio", "pfm.data.sounds:SoundPreprocess")
PREPROCESSES.declare("waves", "pfm.data.wave_inputs:WavePreprocess")
