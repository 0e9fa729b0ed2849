"""Checkpoints in timm's layout, read without timm; and against timm's own forward where timm is there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from making.families import TIMM_CASES, assert_near
from making.timm_files import CFG, small_vit
from making.timm_files import write_timm as write
from pfm.backbones.backbone import SUMMARY
from pfm.backbones.config import BackboneConfig
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.errors import BackboneError


def test_a_checkpoint_in_timms_layout_is_read_without_timm(tmp_path: Path) -> None:
    folder = write(tmp_path / "vit", "vit_tiny_patch16_224", small_vit())
    spec = describe_backbone(BackboneConfig(model_name=str(folder)))
    assert (spec.hidden_size, spec.num_special, spec.num_patches) == (48, 3, 16)
    assert spec.preprocess is not None
    assert spec.preprocess.to_dict()["mean"] == CFG["mean"]
    weights, backbone = small_vit(), build_backbone(spec, seed=0).eval()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        tokens = backbone.embed(pixels)
        assert torch.equal(tokens[:, :1], weights["cls_token"].expand(2, -1, -1))  # which has no place of its own
        assert torch.isfinite(backbone.read(tokens, 0, SUMMARY, is_normalised=True)).all()
    larger = build_backbone(describe_backbone(BackboneConfig(model_name=str(folder), image_size=24)), seed=0)
    assert larger.num_own == 3 + 36


def test_what_is_not_a_vit_of_timms_is_refused(tmp_path: Path) -> None:
    other = write(tmp_path / "other", "resnet50", small_vit())
    with pytest.raises(BackboneError, match="resnet50 is not supported"):
        describe_backbone(BackboneConfig(model_name=str(other)))
    weights = small_vit()
    others = {**weights, "blocks.0.attn.q_norm.weight": torch.ones(16)}
    normed = write(tmp_path / "normed", "vit_tiny_patch16_224", others)
    with pytest.raises(BackboneError, match=r"holds 1 tensors \(layers.0.attention.q_norm.weight"):
        describe_backbone(BackboneConfig(model_name=str(normed)))
    del weights["norm.bias"]
    lacking = write(tmp_path / "lacking", "vit_tiny_patch16_224", weights)
    with pytest.raises(BackboneError, match=r"lacks 1 tensors \(layernorm.bias"):
        describe_backbone(BackboneConfig(model_name=str(lacking)))
    (lacking / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="has no weights"):
        describe_backbone(BackboneConfig(model_name=str(lacking)))


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", list(TIMM_CASES))
def test_a_checkpoint_computes_what_timm_does(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    case = TIMM_CASES[name]
    torch.manual_seed(0)
    reference = timm.create_model(case.architecture, **case.values).eval()
    for tensor in reference.parameters():
        tensor.add_(torch.randn_like(tensor) * 0.1)
    args = {key: case.values[key] for key in ("img_size", "num_heads", "global_pool") if key in case.values}
    folder = write(tmp_path / name, case.architecture, reference.state_dict(), model_args=args,
                   global_pool=reference.global_pool)  # fmt: skip
    for size in (16, 24):
        pixels = torch.randn(2, 3, size, size)
        if size != 16:
            reference.set_input_size((size, size))
        spec = describe_backbone(BackboneConfig(model_name=str(folder), image_size=size))
        backbone = build_backbone(spec, seed=0).eval()
        tokens = backbone.embed(pixels)
        if not spec.config["has_norm_behind_pool"]:
            found = backbone.normalise(backbone.readout(tokens, 0, slice(0, None)))
            assert_near(found, reference.forward_features(pixels))
        found = backbone.read(tokens, 0, SUMMARY, is_normalised=True)[:, 0]
        outputs = reference.forward_features(pixels)
        is_distilled = "dist_token" in spec.config["special_tokens"]  # timm averages two tokens, the readout is CLS
        expected = outputs[:, 0] if is_distilled else reference.forward_head(outputs, pre_logits=True)
        assert_near(found, expected)


@pytest.mark.parametrize(
    "lie",
    [{"pretrained_cfg": [1]}, {"pretrained_cfg": {"input_size": 3}}, {"pretrained_cfg": {"crop_pct": 0}},
     {"model_args": "x"}, {"model_args": {"num_heads": "many"}}, {"model_args": {"img_size": -4}},
     {"model_args": {"act_layer": ["gelu"]}}, {"architecture": 7}],
)  # fmt: skip
def test_a_config_that_lies_is_refused_in_one_line(tmp_path: Path, lie: dict[str, Any]) -> None:
    folder = write(tmp_path / "vit", "vit_tiny_patch16_224", small_vit())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **lie}))
    with pytest.raises(BackboneError):
        build_backbone(describe_backbone(BackboneConfig(model_name=str(folder))), seed=0)
