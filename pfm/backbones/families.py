"""The families that come with the package; a new one is a file beside this and a line here."""

from pfm.backbones.ast import AST
from pfm.backbones.family import register_family
from pfm.backbones.raw import RAW_PIXELS, RAW_SOUNDS
from pfm.backbones.vit import VIT

register_family(VIT)
register_family(AST)
register_family(RAW_PIXELS)
register_family(RAW_SOUNDS)
