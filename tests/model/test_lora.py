"""Adapters: where they sit, what they do, and that merging them changes nothing."""

import pytest
import torch

from making.models import tiny_backbone, tiny_model
from pfm.errors import ConfigError
from pfm.model.config import LoraSettings
from pfm.model.lora import add_adapters, has_adapters, merged

INPUTS = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PRESENT = torch.tensor([[0, 2]] * 3)


def test_an_adapter_adds_alpha_over_r_times_b_a() -> None:
    backbone = tiny_backbone()
    name = "layers.0.attention.q_proj"
    weight, bias = (backbone.encoder.get_parameter(f"{name}.{part}").clone() for part in ("weight", "bias"))
    add_adapters(backbone, LoraSettings(lora_r=2, lora_alpha=6), first_layer=0)
    adapted = backbone.encoder.get_submodule(name).eval()
    a, b = (adapted.get_parameter(f"lora_{part}.default.weight") for part in "AB")
    torch.nn.init.normal_(b)
    x = torch.randn(5, 32)
    expected = x @ weight.T + bias + (6 / 2) * (x @ a.T @ b.T)
    torch.testing.assert_close(adapted(x), expected, atol=1e-5, rtol=0)


def test_a_fresh_adapter_changes_nothing() -> None:
    plain = tiny_backbone().eval()
    adapted = tiny_backbone().eval()
    add_adapters(adapted, LoraSettings(), first_layer=0)
    with torch.no_grad():
        tokens = plain.embed(INPUTS)
        torch.testing.assert_close(
            adapted.readout(tokens, 0, slice(0, 1)), plain.readout(tokens, 0, slice(0, 1)), atol=1e-6, rtol=0
        )


@torch.no_grad()
def test_merging_keeps_the_numbers_and_leaves_the_original_alone() -> None:
    model = tiny_model(lora=LoraSettings())
    before = model.logits(INPUTS, PRESENT)
    plain = merged(model)
    assert not has_adapters(plain)
    assert has_adapters(model)
    torch.testing.assert_close(plain.logits(INPUTS, PRESENT), before, atol=1e-5, rtol=0)  # type: ignore[operator]
    assert torch.equal(model.logits(INPUTS, PRESENT), before)


def test_dropout_of_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="below 1"):
        LoraSettings(lora_dropout=1.0)
