"""Backbones: presets, local folders in Hugging Face layout, other input sizes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ViTConfig, ViTModel

from making.models import tiny_backbone
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import Family
from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.data.images import ImagePreprocess
from pfm.errors import BackboneError

SHAPE: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture
def local_vit(tmp_path: Path) -> Path:
    """A small random ViT saved as transformers saves it, with a processor's settings."""
    torch.manual_seed(0)
    folder = tmp_path / "vit"
    ViTModel(ViTConfig(image_size=32, patch_size=8, **SHAPE)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "resample": 3, "do_normalize": True})
    )
    return folder


def describe(name: str | Path, image_size: int | None = None) -> BackboneSpec:
    return describe_backbone(BackboneConfig(model_name=str(name), image_size=image_size))


def test_a_local_folder_gives_the_numbers_of_transformers_own_model(local_vit: Path) -> None:
    spec = describe(local_vit)
    backbone = build_backbone(spec, seed=0).eval()
    reference = ViTModel.from_pretrained(local_vit).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference(images).last_hidden_state  # after the final LayerNorm
        tokens = backbone.embed(images)
        found = backbone.normalise(backbone.readout(tokens, 0, slice(0, None)))
    # float32 rounding only
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_processors_settings_are_taken_over(local_vit: Path) -> None:
    preprocess = describe(local_vit).preprocess
    assert isinstance(preprocess, ImagePreprocess)
    assert preprocess.mean == (0.1, 0.2, 0.3)
    assert preprocess.std == (0.4, 0.5, 0.6)
    assert (preprocess.size, preprocess.resample) == (32, "bicubic")


def test_without_a_processor_mean_and_std_are_those_of_google_vit(local_vit: Path) -> None:
    (local_vit / "preprocessor_config.json").unlink()
    preprocess = describe(local_vit).preprocess
    assert isinstance(preprocess, ImagePreprocess)
    assert preprocess.mean == preprocess.std == (0.5, 0.5, 0.5)


def test_another_input_size_interpolates_the_positions(local_vit: Path) -> None:
    backbone = build_backbone(describe(local_vit, 64), seed=0).eval()
    reference = ViTModel.from_pretrained(local_vit).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = reference.embeddings(images, interpolate_pos_encoding=True)
        torch.testing.assert_close(backbone.embed(images), expected, atol=1e-6, rtol=0)
    assert backbone.input_shape == (3, 64, 64)


def test_an_input_size_that_the_patches_do_not_fill_is_refused(local_vit: Path) -> None:
    with pytest.raises(BackboneError, match=r"36 is not a multiple of the patch size 8 .*; 32 and 40 are"):
        describe(local_vit, 36)


def test_a_preset_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone() -> None:
    spec = describe("scratch:vit_digits")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = build_backbone(spec, seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert frozen_sha256(first) == frozen_sha256(build_backbone(spec, seed=1))
    assert frozen_sha256(first) != frozen_sha256(build_backbone(spec, seed=2))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vit_tiny_patch16_224", 5_524_416), ("vit_small_patch16_224", 21_665_664), ("vit_base_patch16_224", 85_798_656)],
)
def test_the_presets_have_the_size_of_timms_models(name: str, parameters: int) -> None:
    spec = describe(f"scratch:{name}")
    with torch.device("meta"):
        encoder = spec.family.encoder(spec.config)
    assert sum(tensor.numel() for tensor in encoder.parameters()) == parameters


def test_an_unknown_backbone_names_what_was_asked_for() -> None:
    with pytest.raises(BackboneError, match="no-such/backbone"):
        describe("no-such/backbone")


def test_a_folder_of_another_architecture_is_refused(local_vit: Path) -> None:
    config = json.loads((local_vit / "config.json").read_text())
    (local_vit / "config.json").write_text(json.dumps({**config, "model_type": "bert"}))
    with pytest.raises(BackboneError, match="'bert'"):
        describe(local_vit)


def test_a_truncated_weight_file_is_refused(local_vit: Path) -> None:
    weights = local_vit / "model.safetensors"
    spec = describe(local_vit)
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BackboneError, match="cannot load the weights"):
        build_backbone(spec, seed=0)


def test_weights_that_lack_tensors_are_refused_and_not_made_up(local_vit: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(local_vit / "model.safetensors")
    name = next(name for name in tensors if "query.weight" in name or "q_proj.weight" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, local_vit / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(BackboneError, match="lacks 1 of the backbone's weights"):
        build_backbone(describe(local_vit), seed=0)


def test_the_hash_of_frozen_weights_ignores_adapters_and_sees_every_weight() -> None:
    from pfm.model.config import LoraSettings
    from pfm.model.lora import add_adapters

    backbone = tiny_backbone()
    before = frozen_sha256(backbone)
    add_adapters(backbone, LoraSettings(), first_layer=0)
    assert frozen_sha256(backbone) == before
    with torch.no_grad():
        backbone.encoder.get_parameter("layers.1.mlp.fc2.bias")[0] += 1e-3
    assert frozen_sha256(backbone) != before


@pytest.mark.slow
def test_importing_a_module_loads_no_transformers() -> None:
    modules = "pfm.backbones.spec, pfm.training.run, pfm.commands.train"
    code = f"import sys, {modules}; assert 'transformers.models.vit' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})


@pytest.mark.parametrize("name", ["vit_digits", "vit_mini", "ast_mini"])
def test_initial_weights_are_the_librarys_to_the_bit(name: str) -> None:
    spec = describe_backbone(BackboneConfig(model_name=f"scratch:{name}"))
    torch.manual_seed(5)
    found = spec.family.initial_weights(spec.config)
    torch.manual_seed(5)
    expected = Family.initial_weights(spec.family, spec.config)
    assert found.keys() == expected.keys()
    assert [key for key, tensor in expected.items() if not torch.equal(tensor, found[key])] == []
