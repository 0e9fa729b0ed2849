"""What a graph can take for what is classified: one description an input kind, by name.

A kind from elsewhere is registered in `INPUT_KINDS`, and its nodes in front of a graph in
`pfm_export.graph.front_ends.FRONT_ENDS`; `pfm export onnx --input NAME` then chooses it.
"""

from collections.abc import Callable

from pfm.errors import ConfigError
from pfm.registry import Registry
from pfm_export.serving.kinds.base import Batch, InputKind
from pfm_export.serving.kinds.features import FeatureInput
from pfm_export.serving.kinds.images import ImageInput
from pfm_export.serving.kinds.pixels import PixelInput
from pfm_export.serving.kinds.samples import RawSampleInput, SampleInput
from pfm_export.serving.kinds.waveform import WaveformInput

__all__ = ["INPUT_KINDS", "Batch", "InputKind", "kind_that_takes", "ordinary_kind", "short_kind"]

INPUT_KINDS: Registry[type[InputKind]] = Registry("input kind")
for _kind in (PixelInput, ImageInput, FeatureInput, WaveformInput, SampleInput, RawSampleInput):
    INPUT_KINDS.register(_kind.name, _kind)


def ordinary_kind(modality: str) -> type[InputKind]:
    """The kind that takes what the model itself takes.

    Args:
        modality: as the preprocessing states it: "image", "audio" or "waves".
    """
    return _found(lambda kind: kind.modality == modality and kind.is_model_input, f"for {modality!r} preprocessing")


def kind_that_takes(name: str) -> type[InputKind]:
    """The kind whose first graph input has this name."""
    return _found(lambda kind: kind.inputs[0] == name, f"with the graph input {name!r}")


def short_kind(option: str, modality: str) -> type[InputKind] | None:
    """The kind that an option of `pfm export onnx` is short for: of this modality, else another, which is refused.

    Args:
        option: such as "--with_frontend".
    """
    found = [kind for kind in INPUT_KINDS if kind.option == option]
    return next((kind for kind in found if kind.modality == modality), next(iter(found), None))


def _found(fits: Callable[[type[InputKind]], bool], what: str) -> type[InputKind]:
    for kind in INPUT_KINDS:
        if fits(kind):
            return kind
    raise ConfigError(f"there is no input kind {what}; the kinds are {', '.join(INPUT_KINDS.names())}")
