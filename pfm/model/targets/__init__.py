"""What a model is to answer when the own prompt is absent: one file a target, each registered by a line here."""

from pfm.model.targets.base import TARGETS, Target
from pfm.model.targets.none import NoneOfThese
from pfm.model.targets.others import Others
from pfm.model.targets.uniform import Uniform

TARGETS.register("uniform", Uniform())
TARGETS.register("others", Others())
TARGETS.register("none", NoneOfThese())

__all__ = ["TARGETS", "Target"]
