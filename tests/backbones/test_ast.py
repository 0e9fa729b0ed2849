"""AST as a backbone: a folder in Hugging Face layout, other lengths, prompts, and files of the paper's tool."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

from making.models import TINY_AST, tiny_ast_backbone, tiny_ast_spec, tiny_model, tiny_spec
from making.paper_tool import paper_file, paper_logits
from pfm.backbones.ast import AST
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import PRESETS
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import BackboneSpec, describe_backbone
from pfm.data.sounds import AUDIOSET_MEAN, AUDIOSET_STD, SoundPreprocess, SoundStorage
from pfm.errors import BackboneError, CheckpointError
from pfm.model.checkpoint import load_checkpoint, save_checkpoint, snapshot
from pfm.model.config import LoraSettings
from pfm.model.flops import StepWork, step_flops

CONFIG: dict[str, Any] = {**TINY_AST, "frequency_stride": 4, "time_stride": 4}  # patches that overlap, as AST's do
FEATURES = {"num_mel_bins": 16, "max_length": 32, "mean": -3.5, "std": 2.5, "sampling_rate": 8000}
SOUNDS = torch.randn(2, 32, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def local_ast(tmp_path: Path) -> Path:
    """A small random AST saved as transformers saves it, with a feature extractor."""
    torch.manual_seed(0)
    folder = tmp_path / "ast"
    model = ASTModel(ASTConfig(**CONFIG))
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    model.save_pretrained(folder)
    ASTFeatureExtractor(**FEATURES).save_pretrained(folder)
    return folder


def describe(name: str | Path, max_length: int | None = None) -> BackboneSpec:
    return describe_backbone(BackboneConfig(model_name=str(name), max_length=max_length))


@torch.no_grad()
def test_a_local_folder_gives_the_hidden_states_of_transformers_own_model(local_ast: Path) -> None:
    spec = describe(local_ast)
    backbone = build_backbone(spec, seed=0).eval()
    expected = ASTModel.from_pretrained(local_ast).eval()(SOUNDS).last_hidden_state  # after the final LayerNorm
    tokens = backbone.embed(SOUNDS)
    assert tokens.shape == expected.shape == (2, backbone.num_own, 32)
    assert backbone.num_own == spec.num_special + spec.num_patches == 2 + 3 * 7
    for positions in (slice(0, 1), slice(0, None)):
        found = backbone.normalise(backbone.readout(tokens, 0, positions))
        # float32 rounding only
        torch.testing.assert_close(found, expected[:, positions], atol=1e-5, rtol=0)


def test_the_feature_extractors_settings_are_taken_over(local_ast: Path) -> None:
    spec = describe(local_ast)
    assert spec.family is AST
    assert spec.input_shape == (32, 16)
    assert spec.storage == SoundStorage(8000, 16)
    assert spec.preprocess == SoundPreprocess(max_length=32, mean=-3.5, std=2.5, sampling_rate=8000, num_mel_bins=16)


def test_without_settings_they_are_those_of_audioset(local_ast: Path) -> None:
    config = json.loads((local_ast / "config.json").read_text())
    (local_ast / "config.json").write_text(json.dumps({**config, "num_mel_bins": 128}))
    (local_ast / "preprocessor_config.json").unlink()
    preprocess = describe(local_ast).preprocess
    assert isinstance(preprocess, SoundPreprocess)
    assert (preprocess.mean, preprocess.std) == (AUDIOSET_MEAN, AUDIOSET_STD)
    assert preprocess.storage == SoundStorage(16_000, 128)


def test_an_extractor_that_does_not_normalise_leaves_features_as_they_are(local_ast: Path) -> None:
    ASTFeatureExtractor(**FEATURES, do_normalize=False).save_pretrained(local_ast)
    preprocess = describe(local_ast).preprocess
    assert preprocess is not None
    assert torch.equal(preprocess(SOUNDS), SOUNDS)


def test_features_of_other_bins_than_the_models_are_refused(local_ast: Path) -> None:
    ASTFeatureExtractor(**{**FEATURES, "num_mel_bins": 40}).save_pretrained(local_ast)
    with pytest.raises(BackboneError, match="features of 40 mel bins, but the model takes 16"):
        describe(local_ast)


@torch.no_grad()
def test_a_shorter_input_interpolates_the_positions(local_ast: Path) -> None:
    reference = ASTModel.from_pretrained(local_ast).embeddings.position_embeddings
    backbone = build_backbone(describe(local_ast, 20), seed=0).eval()
    found = backbone.encoder.get_parameter("embeddings.position_embeddings")
    assert found.shape == (1, 2 + 3 * 4, 32)
    assert torch.equal(found[:, :2], reference[:, :2])
    grid = reference[:, 2:].reshape(1, 3, 7, 32).permute(0, 3, 1, 2)  # bins down, frames across
    wanted = torch.nn.functional.interpolate(grid, size=(3, 4), mode="bicubic", align_corners=False)
    torch.testing.assert_close(found[:, 2:], wanted.flatten(2).transpose(1, 2))
    assert backbone.input_shape == (20, 16)
    assert backbone.readout(backbone.embed(SOUNDS[:, :20]), 0, slice(0, 1)).shape == (2, 1, 32)


@torch.no_grad()
@pytest.mark.parametrize("length", [None, 32, 34])
def test_a_length_of_as_many_patches_keeps_the_positions(local_ast: Path, length: int | None) -> None:
    whole, other = (build_backbone(describe(local_ast, n), seed=0).eval() for n in (None, length))
    assert other.input_shape == (length or 32, 16)
    longer = torch.nn.functional.pad(SOUNDS, (0, 0, 0, (length or 32) - 32))
    assert torch.equal(other.embed(longer), whole.embed(SOUNDS))  # the last two frames fill no patch


def test_a_length_below_a_patch_is_refused(local_ast: Path) -> None:
    config = json.loads((local_ast / "config.json").read_text())
    (local_ast / "config.json").write_text(json.dumps({**config, "patch_size": 16}))
    describe(local_ast, 16)
    with pytest.raises(BackboneError, match="--image_size is for images"):
        describe_backbone(BackboneConfig(model_name=str(local_ast), image_size=32))
    (local_ast / "config.json").write_text(json.dumps({**config, "patch_size": 24}))
    with pytest.raises(BackboneError, match="--max_length 20 is less than a patch"):
        describe(local_ast, 20)


@pytest.mark.parametrize("name", [name for name in PRESETS if name.startswith("ast_")])
def test_presets_of_sounds_describe_themselves(name: str) -> None:
    spec = describe(f"scratch:{name}")
    assert spec.family is AST
    assert spec.input_shape == (PRESETS[name]["max_length"], PRESETS[name]["num_mel_bins"])
    # AST's own: 12 x 101 patches at 10.24 s
    assert spec.num_patches == (24 if name == "ast_mini" else 1212)


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"readout": "prompt", "prompt_layer": 1}, {"prompt_tokens": 2}])
def test_the_order_of_the_prompts_does_not_matter(changes: dict[str, Any]) -> None:
    model = tiny_model(backbone=tiny_ast_backbone(), **changes)
    for seen in ([0, 1, 2, 3], [2, 0], [3]):
        found, turned = (model.logits(SOUNDS, torch.tensor([order] * 2)) for order in (seen, seen[::-1]))
        torch.testing.assert_close(found, turned, atol=1e-5, rtol=0)
    assert not torch.allclose(model.logits(SOUNDS, torch.tensor([[0]] * 2))[:, 0],
                              model.logits(SOUNDS, torch.tensor([[0, 1]] * 2))[:, 0])  # fmt: skip


@torch.no_grad()
def test_adapters_on_a_local_folder_rebuild_from_a_checkpoint(local_ast: Path, tmp_path: Path) -> None:
    from pfm.backbones.loading import frozen_sha256

    spec = describe(local_ast)
    backbone = build_backbone(spec, seed=0)
    frozen = frozen_sha256(backbone)
    model = tiny_model(backbone=backbone, lora=LoraSettings(lora_r=2))
    assert spec.preprocess is not None
    state = snapshot(model, spec=spec, preprocess=spec.preprocess, lora=LoraSettings(lora_r=2), frozen_sha256=frozen)
    save_checkpoint(tmp_path / "x.pt", state)
    back = load_checkpoint(tmp_path / "x.pt")
    assert back.preprocess == spec.preprocess
    assert back.spec.storage == spec.storage
    present = torch.tensor([[0, 2]] * 2)
    assert torch.equal(back.build_model().logits(SOUNDS, present), model.logits(SOUNDS, present))


def test_flops_count_the_tokens_of_both_special_ones_and_the_patches() -> None:
    """By hand: one block, whole, of S tokens is 2 (4 S D² + 2 S D H + 2 S² D)."""
    spec, width, hidden, own = tiny_ast_spec(), 32, 48, 2 + 2 * 4
    embedding = 2 * 8 * (1 * 8 * 8) * width  # one channel
    total = embedding
    tokens = own + 3
    total += 2 * (4 * tokens * width**2 + 2 * tokens * width * hidden + 2 * tokens**2 * width)
    # the last block: one query, but keys and values of all
    total += 2 * (2 * width**2 + 2 * tokens * width**2 + 2 * width * hidden + 2 * tokens * width)
    total += 2 * width * 4
    work = StepWork(prompts=(3,), num_scores=4, rank=0, has_backward=False)
    assert step_flops(spec, work) == total
    assert spec.num_special + tiny_spec().num_special == 3


# --- the paper tool's files -----------------------------------------------------------------------

PAPER: dict[str, Any] = {
    "max_length": 116, "num_mel_bins": 128, "patch_size": 16, "frequency_stride": 10, "time_stride": 10,
    "hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96,
}  # fmt: skip


def paper_ast() -> ASTModel:
    return ASTModel(ASTConfig(**PAPER)).eval()


@torch.no_grad()
def test_a_file_of_the_papers_tool_gives_the_logits_its_weights_imply(tmp_path: Path) -> None:
    path, ast, state = paper_file(tmp_path / "sounds_seed_42_10.pt", make_encoder=paper_ast)
    checkpoint = load_checkpoint(path)
    assert checkpoint.spec.input_shape == (116, 128)
    assert any("assumed 2 heads of 64" in note and "features normalised as for MIT/ast" in note
               for note in checkpoint.notes)  # fmt: skip
    assert checkpoint.preprocess == SoundPreprocess(max_length=116, mean=AUDIOSET_MEAN, std=AUDIOSET_STD)
    sounds = torch.randn(2, 116, 128)
    for seen in ([0, 1, 2], [2, 0], [1]):
        found = checkpoint.build_model().logits(sounds, torch.tensor([seen] * 2))
        # float32 rounding on logits of about 10
        torch.testing.assert_close(found, paper_logits(ast, state, sounds, seen), atol=1e-4, rtol=0)


def test_a_paper_file_of_full_length_takes_1024_frames(tmp_path: Path) -> None:
    path, _, state = paper_file(tmp_path / "x.pt", make_encoder=paper_ast)
    name = next(name for name in state if name.endswith("position_embeddings"))
    state[name] = torch.zeros(1, 2 + 12 * 101, 128)
    torch.save({"model_state_dict": state}, path)
    checkpoint = load_checkpoint(path)
    assert checkpoint.spec.input_shape == (1024, 128)
    checkpoint.build_model()


def test_a_paper_file_takes_features_from_the_backbone_named(tmp_path: Path) -> None:
    path, ast, _ = paper_file(tmp_path / "x.pt", make_encoder=paper_ast)
    ast.save_pretrained(tmp_path / "ast")
    ASTFeatureExtractor(mean=-1.0, std=3.0, max_length=116).save_pretrained(tmp_path / "ast")
    checkpoint = load_checkpoint(path, model_name=str(tmp_path / "ast"))
    assert checkpoint.notes == ()
    assert checkpoint.preprocess == SoundPreprocess(max_length=116, mean=-1.0, std=3.0)
    checkpoint.build_model()


def test_a_paper_file_of_sounds_beside_a_backbone_of_images_is_refused(tmp_path: Path) -> None:
    path, _, _ = paper_file(tmp_path / "x.pt", make_encoder=paper_ast)
    with pytest.raises((CheckpointError, BackboneError)):
        load_checkpoint(path, model_name="scratch:vit_digits")
