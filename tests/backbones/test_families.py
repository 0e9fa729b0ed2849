"""Every family against the library's own forward, with its prompts absent, and at another size.

Letters: B batch, T tokens, D hidden size.
"""

from pathlib import Path

import pytest
import torch

from making.families import CASES, MORE, Case
from making.models import tiny_model
from pfm.backbones.backbone import SUMMARY, Backbone
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import FAMILIES
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone

CLOSE = {"atol": 1e-5, "rtol": 0.0}  # float32 rounding


def load(folder: Path, size: int | None = None) -> Backbone:
    spec = describe_backbone(BackboneConfig(model_name=str(folder), image_size=size))
    return build_backbone(spec, seed=0).eval()


def pixels_of(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def check_parity(case: Case, folder: Path) -> None:
    reference = case.make(folder)
    for size in (case.size, case.other):
        backbone, pixels = load(folder, None if size == case.size else size), pixels_of(size)
        expected, summary = case.forward(reference, pixels)
        tokens = backbone.embed(pixels)
        assert tokens.shape == expected.shape == (2, backbone.num_own, 32)
        found = backbone.normalise(backbone.readout(tokens, 0, slice(0, None)))
        torch.testing.assert_close(found, expected, **CLOSE)
        read = backbone.read(tokens, 0, SUMMARY, is_normalised=True)[:, 0]
        torch.testing.assert_close(read, summary, **CLOSE)
    # no prompt is there: the plain backbone, whatever the prompts are
    model = tiny_model(backbone=backbone, prompt_layer=1)
    assert model.config.final_norm is backbone.spec.family.final_norm
    nothing = model.read(model.trunk(pixels), model.bank.gather(torch.zeros(2, 0, dtype=torch.long)))[:, 0]
    plain = backbone.read(tokens, 0, SUMMARY, is_normalised=model.config.final_norm)[:, 0]
    torch.testing.assert_close(nothing, plain, **CLOSE)
    if model.config.final_norm:
        torch.testing.assert_close(nothing, summary, **CLOSE)
    # prompts have no place: their order says nothing, and each of them changes the answer
    given = model.logits(pixels, torch.tensor([[0, 2]] * 2))
    torch.testing.assert_close(given, model.logits(pixels, torch.tensor([[2, 0]] * 2)), **CLOSE)
    assert not torch.allclose(given, model.logits(pixels, torch.tensor([[0]] * 2)))


@pytest.mark.parametrize("name", list(CASES))
def test_a_family_computes_what_the_library_does(name: str, tmp_path: Path) -> None:
    check_parity(CASES[name], tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MORE))
def test_variants_of_families_compute_what_the_library_does(name: str, tmp_path: Path) -> None:
    check_parity(MORE[name], tmp_path / name)


def test_every_family_of_images_is_compared() -> None:
    images = {family.name for family in FAMILIES if family.noun == "images"}
    assert images == {*CASES, "timm"}  # which `test_timm_layout.py` compares
