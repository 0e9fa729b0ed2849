"""The families that come with the package; a new one is a file beside this and a line here."""

from pfm.backbones.ast import AST
from pfm.backbones.clip import CLIP
from pfm.backbones.deit import DEIT
from pfm.backbones.dinov2 import DINOV2, DINOV2_REGISTERS
from pfm.backbones.dinov3 import DINOV3
from pfm.backbones.family import register_family
from pfm.backbones.hubert import HUBERT
from pfm.backbones.raw import RAW_PIXELS, RAW_SOUNDS
from pfm.backbones.siglip import SIGLIP, SIGLIP2
from pfm.backbones.timm_layout import TIMM
from pfm.backbones.vit import VIT
from pfm.backbones.wav2vec2 import WAV2VEC2
from pfm.backbones.wavlm import WAVLM

for family in (
    VIT, DEIT, DINOV2, DINOV2_REGISTERS, DINOV3, CLIP, SIGLIP, SIGLIP2, TIMM, AST, WAVLM, WAV2VEC2, HUBERT,
    RAW_PIXELS, RAW_SOUNDS,
):  # fmt: skip
    register_family(family)
