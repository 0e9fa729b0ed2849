"""The model against one written the obvious way: one example at a time, prompts in front, whole blocks."""

from typing import Any

import pytest
import torch

from making.models import tiny_backbone, tiny_model
from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings
from pfm.model.draws import MODES
from pfm.seeds import make_generator

C = 4
INPUTS = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 1, 2])
# float32 sums in another order, on outputs of about 1
TOLERANCE = 1e-5

VARIANTS = [
    {"readout": "cls"},
    {"readout": "cls", "final_norm": True, "prompt_tokens": 3},
    {"readout": "prompt"},
    {"readout": "prompt", "wrong_target": "none", "prompt_tokens": 2, "final_norm": True},
    {"readout": "cls", "prompt_layer": 1},
    {"readout": "prompt", "prompt_layer": 1},
]
variants = pytest.mark.parametrize("variant", VARIANTS, ids=str)


def reference_logits(model: PromptedClassifier, image: torch.Tensor, seen: list[int]) -> torch.Tensor:
    """[P_A ; CLS ; patches] through every block, for one image; (C,)."""
    encoder: Any = model.backbone.encoder
    layer = model.config.prompt_layer
    tokens = encoder.embeddings(image[None])
    for block in encoder.layers[:layer]:
        tokens = block(tokens)
    prompts = [model.bank.prompts[c, t] for c in seen for t in range(model.config.prompt_tokens)]
    tokens = torch.cat([*[p[None, None] for p in prompts], tokens], dim=1)
    for block in encoder.layers[layer:]:
        tokens = block(tokens)
    if model.config.final_norm:
        tokens = encoder.layernorm(tokens)
    if model.config.readout == "cls":
        return model.get_submodule("classifier")(tokens[0, len(prompts)])
    logits = torch.full((C,), -torch.inf)
    m = model.config.prompt_tokens
    for place, c in enumerate(seen):
        logits[c] = model.get_submodule("scorer")(tokens[0, place * m : (place + 1) * m].mean(dim=0)).squeeze()
    return logits


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@variants
@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_the_model_gives_the_reference_logits_in_every_mode(variant: dict[str, object], mode: str) -> None:
    model = tiny_model(**variant)  # type: ignore[arg-type]
    present = MODES[mode](LABELS, C, make_generator(mode))
    expected = torch.stack([reference_logits(model, x, row) for x, row in zip(INPUTS, present.tolist(), strict=True)])
    assert_same(model.logits(INPUTS, present), expected)


@variants
@torch.no_grad()
def test_the_order_of_the_prompts_does_not_matter(variant: dict[str, object]) -> None:
    model = tiny_model(**variant)  # type: ignore[arg-type]
    forward = torch.tensor([[0, 1, 3]] * 6)
    assert_same(model.logits(INPUTS, forward), model.logits(INPUTS, forward.flip(1)))


@variants
@pytest.mark.parametrize("is_eager", [False, True])
@torch.no_grad()
def test_masking_a_prompt_equals_removing_it(variant: dict[str, object], is_eager: bool) -> None:
    model = tiny_model(**variant)  # type: ignore[arg-type]
    model.backbone.encoder.set_eager(is_eager)
    tokens, present = model.trunk(INPUTS), torch.tensor([[3, 1], [0, 2], [1, 2], [0, 1], [2, 3], [3, 0]])
    expected = model.read(tokens, model.bank.gather(present))
    with_more = model.bank.gather(torch.cat([present, present[:, :1]], dim=1))  # one prompt too many, behind
    mask = torch.ones(6, tokens.shape[1] + with_more.shape[1], dtype=torch.bool)
    mask[:, -model.config.prompt_tokens :] = False
    assert_same(model.read(tokens, with_more, mask)[:, : expected.shape[1]], expected)


@variants
@torch.no_grad()
def test_no_prompt_at_all_is_allowed(variant: dict[str, object]) -> None:
    model = tiny_model(**variant)  # type: ignore[arg-type]
    expected = torch.stack([reference_logits(model, image, []) for image in INPUTS])
    assert_same(model.logits(INPUTS, torch.empty(6, 0, dtype=torch.int64)), expected)


@torch.no_grad()
def test_the_readout_is_cls_and_no_other_token() -> None:
    model = tiny_model(readout="cls")
    present = torch.tensor([[0, 2]] * 6)
    tokens = torch.cat([model.trunk(INPUTS), model.bank.gather(present)], dim=1)
    whole = model.backbone.run_blocks(tokens, 0, model.backbone.num_layers)  # every token, every block
    assert_same(model.logits(INPUTS, present), model.get_submodule("classifier")(whole[:, 0]))
    for other in range(1, whole.shape[1]):
        assert not torch.allclose(
            model.logits(INPUTS, present), model.get_submodule("classifier")(whole[:, other]), atol=1e-2
        )


@torch.no_grad()
def test_prompts_change_the_answer() -> None:
    model = tiny_model(readout="cls")
    one, two = (model.logits(INPUTS, torch.full((6, 1), c)) for c in (0, 1))
    assert (one - two).abs().max() > 0.01


@torch.no_grad()
def test_several_choices_in_one_forward_equal_one_at_a_time() -> None:
    model = tiny_model(readout="cls", prompt_layer=1)
    first, second = torch.tensor([[0]] * 6), torch.tensor([[1, 2, 3]] * 6)
    together = model(INPUTS, (first, second))
    assert_same(together[0], model.logits(INPUTS, first))
    assert_same(together[1], model.logits(INPUTS, second))


@torch.no_grad()
def test_blocks_below_the_prompt_layer_see_no_prompt() -> None:
    model = tiny_model(readout="cls", prompt_layer=1, lora=LoraSettings(lora_dropout=0.0))
    before = model.trunk(INPUTS)
    model.bank.prompts.add_(5)
    assert torch.equal(model.trunk(INPUTS), before)
    adapted = [name for name, _ in model.named_parameters() if "lora_" in name]
    assert adapted
    assert all("layers.1." in name for name in adapted)


def test_with_adapters_only_adapters_prompts_and_readout_train() -> None:
    model = tiny_model(readout="cls", lora=LoraSettings())
    names = set(model.trained_tensors())
    assert {"bank.prompts", "classifier.weight", "classifier.bias"} <= names
    rest = names - {"bank.prompts", "classifier.weight", "classifier.bias"}
    assert rest
    assert all(".lora_A." in name or ".lora_B." in name for name in rest)
    assert all("q_proj" in name or "v_proj" in name for name in rest)


@pytest.mark.parametrize("final_norm", [True, False])
def test_with_prompts_alone_nothing_of_the_backbone_trains(final_norm: bool) -> None:
    model = tiny_model(tune="prompts", final_norm=final_norm)
    assert set(model.trained_tensors()) == {"bank.prompts", "classifier.weight", "classifier.bias"}
    model = tiny_model(tune="prompts", final_norm=final_norm, readout="prompt")
    assert set(model.trained_tensors()) == {"bank.prompts", "scorer.weight", "scorer.bias"}


@pytest.mark.parametrize("readout", ["cls", "prompt"])
@pytest.mark.parametrize("final_norm", [True, False])
def test_every_trained_parameter_gets_a_gradient(readout: str, final_norm: bool) -> None:
    model = tiny_model(readout=readout, final_norm=final_norm).train()
    logits = model(INPUTS, (torch.tensor([[0, 1]] * 6), torch.tensor([[2]] * 6)))
    sum(part[part.isfinite()].square().sum() for part in logits).backward()  # type: ignore[union-attr]
    assert [name for name, tensor in model.trained_tensors().items() if tensor.grad is None] == []


def test_the_bank_starts_as_standard_normal() -> None:
    torch.manual_seed(0)
    prompts = tiny_model(num_classes=64).bank.prompts.detach()
    assert prompts.shape == (64, 1, 32)
    # 2,048 draws: the mean is off by 0.02, the deviation by 0.016
    assert abs(float(prompts.mean())) < 0.08
    assert abs(float(prompts.std()) - 1) < 0.06


def test_unknown_wins_when_no_score_is_above_zero() -> None:
    model = tiny_model(readout="prompt", wrong_target="none")
    logits = torch.tensor([[-1.0, -2.0, -torch.inf, -0.1], [-1.0, 0.5, 0.2, -3.0], [-torch.inf] * 4])
    assert model.predict(logits).tolist() == [-1, 1, -1]


def test_without_unknown_the_largest_logit_wins_unless_nothing_is_active() -> None:
    model = tiny_model(readout="prompt")
    assert model.predict(torch.tensor([[-1.0, -2.0, -torch.inf, -3], [-torch.inf] * 4])).tolist() == [0, -1]


def test_a_prompt_layer_outside_the_backbone_is_refused() -> None:
    with pytest.raises(ConfigError, match="blocks 0 to 1"):
        tiny_model(prompt_layer=2)


def test_the_unknown_answer_needs_the_prompt_readout() -> None:
    with pytest.raises(ConfigError, match="--readout prompt"):
        tiny_model(readout="cls", wrong_target="none")


@torch.no_grad()
def test_autocast_leaves_the_readout_in_float32() -> None:
    model = tiny_model(readout="cls", backbone=tiny_backbone())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.logits(INPUTS, torch.tensor([[0, 1]] * 6)).dtype == torch.float32
