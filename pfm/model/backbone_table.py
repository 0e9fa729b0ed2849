"""What backbones there are: one row for each preset and each published model, with its size and what it costs."""

from dataclasses import asdict, dataclass

import torch

from pfm.backbones.config import SCRATCH, BackboneConfig
from pfm.backbones.family import FAMILIES, Card, Family
from pfm.backbones.spec import describe_backbone
from pfm.model.flops import StepWork, step_flops
from pfm.storage import Json


@dataclass(frozen=True, kw_only=True)
class BackboneRow:
    """A backbone, as `pfm backbones` shows it.

    Attributes:
        family: as people call it.
        preset: its shape without weights, behind `scratch:`.
        model_name: hub id of a published model of that shape; "" where none is named.
        licence: as the model's card has it.
        is_gated: whether the hub asks to accept terms first.
        good_at: what it is taken for.
        source: page that the licence was read on; "" where it was not checked.
        input: the size of its input, for people.
        tokens: that an input becomes.
        width, layers: of the encoder.
        million_weights: of the encoder, without heads of the authors.
        gflop: of one input, no prompt present, the last block cut to what is read.
        has_final_norm: whether the final LayerNorm is applied where the user does not say.
    """

    family: str
    preset: str
    model_name: str
    licence: str
    is_gated: bool
    good_at: str
    source: str
    input: str
    tokens: int
    width: int
    layers: int
    million_weights: float
    gflop: float
    has_final_norm: bool

    def to_dict(self) -> Json:
        return asdict(self)


def backbone_rows() -> list[BackboneRow]:
    """All that have blocks, family by family; raw features are not a backbone to choose."""
    rows: list[BackboneRow] = []
    for family in FAMILIES:
        cards = {card.preset: [] for card in family.cards}
        for card in family.cards:
            cards[card.preset].append(card)
        presets = [name for name, values in family.presets.items() if values["num_hidden_layers"]]
        for preset in dict.fromkeys([*presets, *cards]):
            rows += [_row(family, preset, card) for card in cards.get(preset, [None])]
    return rows


def _row(family: Family, preset: str, card: Card | None) -> BackboneRow:
    spec = describe_backbone(BackboneConfig(model_name=f"{SCRATCH}{preset}"))
    with torch.device("meta"):
        encoder = spec.family.encoder(spec.config)
    work = StepWork(prompts=(0.0,), num_scores=0, rank=0, has_backward=False)
    return BackboneRow(
        family=family.title,
        preset=preset,
        model_name=card.model_name if card else "",
        licence=card.licence if card else "",
        is_gated=bool(card and card.is_gated),
        good_at=card.good_at if card else "",
        source=card.source if card else "",
        input=spec.describe_size(),
        tokens=spec.num_patches + spec.num_special,
        width=spec.hidden_size,
        layers=spec.num_layers,
        million_weights=round(sum(tensor.numel() for tensor in encoder.parameters()) / 1e6, 1),
        gflop=round(step_flops(spec, work) / 1e9, 2),
        has_final_norm=family.final_norm,
    )
