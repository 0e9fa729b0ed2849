"""Which backbone, at which input size, as options."""

from dataclasses import dataclass
from typing import ClassVar

import pfm.backbones.families  # noqa: F401  # makes the families known
from pfm.backbones.family import FAMILIES
from pfm.errors import ConfigError
from pfm.options import Section, expand_paths, option

SCRATCH = "scratch:"
IMAGE_DEFAULT, AUDIO_DEFAULT = (family.default_model for family in FAMILIES if family.default_model)


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which backbone, at which input size."""

    section: ClassVar = Section.MODEL
    model_name: str = option(
        IMAGE_DEFAULT,
        f"A hub id ({AUDIO_DEFAULT} by default for sounds), a local folder in Hugging Face layout, or scratch:NAME for "
        "a shape without pretrained weights; `pfm backbones` lists them.",
        is_path=True,
    )
    revision: str = option(
        "",
        "Branch, tag or commit of --model_name on the hub; a checkpoint says which.  [default: what main is now]",
    )
    image_size: int | None = option(
        None, "Side in pixels of the model's input; positions are interpolated.  [default: the backbone's]", minimum=1
    )
    max_length: int | None = option(
        None,
        "Frames (of 10 ms) of the model's input, for sounds; AST's positions are interpolated.  [default: the "
        "backbone's; of one that takes samples the longest clip of the data, 10 s at most]",
        minimum=16,
    )

    def __post_init__(self) -> None:
        expand_paths(self)
        if self.revision and self.model_name.startswith(SCRATCH):
            raise ConfigError(f"--revision is for models of the hub; {self.model_name} is not one")
