"""Dropout keyed by the example: its statistics, and what it does not depend on."""

import math
from typing import Any

import pytest
import torch

from making.models import tiny_backbone, tiny_model
from pfm.backbones.dropout import RowDropout, RowKeys, keep_mask
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings

KEYS = torch.randint(-(2**31), 2**31, (64,), generator=torch.Generator().manual_seed(0)).to(torch.int32)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_element_is_dropped_with_the_probability_given_and_alone(p: float) -> None:
    length = 4001  # odd: two elements share a hash, the last does not
    dropped = ~keep_mask(KEYS, length, p)
    spread = math.sqrt(p * (1 - p))
    assert abs(dropped.float().mean() - p) < 5 * spread / math.sqrt(64 * length)
    # neighbours, rows, and columns are uncorrelated: five standard errors
    centred = (dropped.double() - p) / spread
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1], centred[:, 2:] * centred[:, :-2]):
        assert product.mean().abs() < 5 / math.sqrt(product.numel())
    assert (dropped.double().mean(dim=0) - p).abs().max() < 6 * spread / 8  # over the 64 rows
    assert (dropped.double().mean(dim=1) - p).abs().max() < 6 * spread / math.sqrt(length)


def test_keys_that_differ_by_one_give_unrelated_masks() -> None:
    masks = keep_mask(torch.arange(32, dtype=torch.int32), 8000, 0.5).double() * 2 - 1
    correlation = masks @ masks.T / 8000
    assert (correlation - torch.eye(32)).abs().max() < 6 / math.sqrt(8000)


def test_a_row_keeps_its_mask_in_any_company() -> None:
    keys = RowKeys()
    layer = RowDropout(0.3, "a", keys).train()
    rows = torch.randn(8, 3, 5)
    keys.current = KEYS[:8]
    whole = layer(rows)
    for part in (slice(0, 3), slice(3, 8)):
        keys.current = KEYS[:8][part]
        assert torch.equal(layer(rows[part]), whole[part])


def test_what_is_kept_is_scaled_and_evaluation_drops_nothing() -> None:
    keys = RowKeys()
    layer = RowDropout(0.25, "a", keys)
    keys.current = KEYS
    ones = torch.ones(64, 1000)
    assert layer.train()(ones).unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(layer.eval()(ones), ones)


def test_layers_of_other_names_drop_other_elements() -> None:
    keys = RowKeys()
    keys.current = KEYS
    ones = torch.ones(64, 100)
    first = RowDropout(0.5, "a", keys).train()
    assert torch.equal(first(ones), first(ones))  # the next forward pass, with the same keys
    assert not torch.equal(first(ones), RowDropout(0.5, "b", keys).train()(ones))


def test_without_keys_torch_draws() -> None:
    layer = RowDropout(0.5, "a", RowKeys()).train()
    ones = torch.ones(4, 100)
    assert not torch.equal(layer(ones), layer(ones))


def test_every_dropout_of_a_model_is_keyed_and_has_a_name_of_its_own() -> None:
    model = lora_model(**DROPPING)
    layers = [module for module in model.modules() if isinstance(module, RowDropout)]
    dropping = [module for module in model.modules() if isinstance(module, torch.nn.Dropout) and module.p > 0]
    assert dropping == []
    # the embeddings', three in each of two blocks, and one behind each of four adapted projections
    assert len({layer.salt for layer in layers}) == len(layers) == 1 + 2 * 3 + 2 * 2
    assert {id(layer.keys) for layer in layers} == {id(model.backbone.row_keys)}


DROPPING = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}


def lora_model(**changes: Any) -> PromptedClassifier:
    return tiny_model(lora=LoraSettings(lora_dropout=0.4), backbone=tiny_backbone(**changes)).train()


def gradients(model: PromptedClassifier, keys: torch.Tensor) -> dict[str, torch.Tensor]:
    inputs = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    presents = (torch.tensor([[0, 1]]).expand(6, -1), torch.tensor([[2, 3]]).expand(6, -1))
    model.zero_grad()
    outputs = model(inputs, presents, row_keys=keys)
    torch.cat(outputs).square().sum().backward()
    return {name: tensor.grad.clone() for name, tensor in model.named_parameters() if tensor.grad is not None}


def test_recomputing_blocks_gives_the_same_gradients_with_dropout_on() -> None:
    keys = KEYS[:12].view(2, 6)
    stored, recomputed = lora_model(**DROPPING), lora_model(**DROPPING)
    recomputed.backbone.recompute = True
    first, second = gradients(stored, keys), gradients(recomputed, keys)
    assert first.keys() == second.keys()
    for name, gradient in first.items():
        torch.testing.assert_close(second[name], gradient, atol=1e-5, rtol=1e-5)
    other = gradients(stored, KEYS[12:24].view(2, 6))
    assert any(not torch.allclose(other[name], first[name]) for name in first)  # dropout is on


@torch.no_grad()
def test_a_row_has_its_logits_in_any_company_with_dropout_in_attention_too() -> None:
    model, inputs, present = lora_model(**DROPPING), torch.randn(6, 3, 8, 8), torch.tensor([[0, 1]] * 6)
    (whole,) = model(inputs, (present,), row_keys=KEYS[None, :6])
    for part in (slice(0, 2), slice(2, 6)):
        (found,) = model(inputs[part], (present[part],), row_keys=KEYS[None, :6][:, part])
        torch.testing.assert_close(found, whole[part], atol=1e-5, rtol=1e-5)
    (plain,) = lora_model(hidden_dropout_prob=0.2)(inputs, (present,), row_keys=KEYS[None, :6])
    assert not torch.allclose(plain, whole, atol=1e-3)  # attention drops


def test_a_frozen_trunk_never_drops() -> None:
    model = tiny_model(lora=LoraSettings(), backbone=tiny_backbone(hidden_dropout_prob=0.5), prompt_layer=1).train()
    inputs = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.trunk(inputs), model.trunk(inputs))
    assert torch.equal(model.trunk(inputs), model.eval().trunk(inputs))
