"""What is saved comes back, byte for byte; foreign and damaged files are told apart."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from making.commands import train_arguments
from making.models import tiny_model, tiny_spec
from making.paper_tool import paper_file, paper_logits
from pfm.backbones.loading import build_backbone, frozen_sha256
from pfm.backbones.spec import BackboneSpec
from pfm.cli import pfm, run
from pfm.data.images import ImagePreprocess
from pfm.errors import BackboneError, CheckpointError, ConfigError
from pfm.model.checkpoint import Checkpoint, RunState, load_checkpoint, save_checkpoint, snapshot
from pfm.model.classifier import PromptedClassifier
from pfm.model.config import LoraSettings

INPUTS = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PRESENT = torch.tensor([[0, 2]] * 3)
PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


def trained(lora: LoraSettings | None, **changes: Any) -> tuple[PromptedClassifier, torch.optim.Optimizer, Checkpoint]:
    """A model after one optimisation step, and its snapshot."""
    backbone = build_backbone(tiny_spec(), seed=9)
    frozen = frozen_sha256(backbone) if lora else ""
    model = tiny_model(backbone=backbone, lora=lora, **changes)
    optimizer = torch.optim.Adam(model.trained_tensors().values())
    logits = model.logits(INPUTS, PRESENT)
    logits[logits.isfinite()].square().mean().backward()
    optimizer.step()
    run = RunState(seed=9, epoch=3, step=7, run={"data": {"dataset": "x"}})
    state = snapshot(model, spec=tiny_spec(), preprocess=PREPROCESS, lora=lora, optimizer=optimizer,
                     frozen_sha256=frozen, state=run)  # fmt: skip
    return model.eval(), optimizer, state


@pytest.mark.parametrize("lora", [None, LoraSettings(lora_r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("readout", ["cls", "prompt"])
@torch.no_grad()
def test_a_checkpoint_rebuilds_the_model(tmp_path: Path, lora: LoraSettings | None, readout: str) -> None:
    with torch.enable_grad():
        model, _, state = trained(lora, readout=readout)
    save_checkpoint(tmp_path / "x.pt", state)
    back = load_checkpoint(tmp_path / "x.pt")
    assert torch.equal(back.build_model().logits(INPUTS, PRESENT), model.logits(INPUTS, PRESENT))
    assert (back.classes, back.preprocess, back.model, back.lora) == (state.classes, PREPROCESS, model.config, lora)
    assert (back.seed, back.epoch, back.step, back.run) == (9, 3, 7, {"data": {"dataset": "x"}})


def test_moments_are_kept_by_parameter_name(tmp_path: Path) -> None:
    model, optimizer, state = trained(LoraSettings())
    save_checkpoint(tmp_path / "x.pt", state)
    moments = load_checkpoint(tmp_path / "x.pt").moments
    assert set(moments) == set(model.trained_tensors())
    for name, tensor in model.trained_tensors().items():
        assert torch.equal(moments[name]["exp_avg"], optimizer.state[tensor]["exp_avg"])
        assert torch.equal(moments[name]["exp_avg_sq"], optimizer.state[tensor]["exp_avg_sq"])


def test_a_lora_checkpoint_holds_no_backbone_weight(tmp_path: Path) -> None:
    _, _, state = trained(LoraSettings())
    save_checkpoint(tmp_path / "x.pt", state)
    names = load_checkpoint(tmp_path / "x.pt").tensors
    assert all("lora_" in name or name.startswith(("bank.", "classifier.")) for name in names)


def test_the_file_loads_with_weights_only_and_plain_torch(tmp_path: Path) -> None:
    _, _, state = trained(None)
    save_checkpoint(tmp_path / "x.pt", state)
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert {"model_state_dict", "optimizer_state_dict"} <= set(content)


def test_training_prompts_alone_stores_nothing_but_them_and_the_readout(preset: str, npz: Path, tmp_path: Path) -> None:
    assert run(pfm, train_arguments(npz, tmp_path, "--tune", "prompts", "--eval_every", "0")) == 0
    state = load_checkpoint(tmp_path / "colours_seed_42_2.pt")
    assert set(state.tensors) == {"bank.prompts", "classifier.weight", "classifier.bias"}
    assert (state.lora, state.model.tune) == (None, "prompts")
    started = build_backbone(state.spec, seed=42)
    assert frozen_sha256(state.build_model().backbone) == frozen_sha256(started) == state.frozen_sha256


@pytest.mark.slow
def test_a_model_of_which_prompts_alone_were_trained_is_exported(preset: str, npz: Path, tmp_path: Path) -> None:
    assert run(pfm, train_arguments(npz, tmp_path, "--tune", "prompts", "--eval_every", "0")) == 0
    ckpt = tmp_path / "colours_seed_42_2.pt"
    assert run(pfm, ["export", "onnx", "--ckpt", str(ckpt), "--out", str(tmp_path / "bundle")]) == 0


def test_a_backbone_with_other_weights_is_refused(tmp_path: Path) -> None:
    _, _, state = trained(LoraSettings())
    other = Checkpoint(**{**state.__dict__, "seed": 10})  # another seed makes another frozen backbone
    with pytest.raises(BackboneError, match="not those this checkpoint was trained on"):
        other.build_model()


def test_another_backbone_is_taken_by_what_was_trained_on_a_frozen_one_alone(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    save_checkpoint(path, trained(None)[2])
    for name in (None, tiny_spec().model_name):
        assert load_checkpoint(path, model_name=name).spec.model_name == tiny_spec().model_name
    with pytest.raises(ConfigError, match=r"--model_name elsewhere: .* holds all of its model's weights"):
        load_checkpoint(path, model_name="elsewhere")
    save_checkpoint(path, trained(LoraSettings())[2])
    assert load_checkpoint(path, model_name="elsewhere").spec.model_name == "elsewhere"


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    _, _, state = trained(None)
    wide = BackboneSpec(state.spec.model_name, {**state.spec.config, "hidden_size": 64}, PREPROCESS)
    with pytest.raises(CheckpointError, match="another shape"):
        Checkpoint(**{**state.__dict__, "spec": wide}).build_model()
    tensors = {name: tensor for name, tensor in state.tensors.items() if name != "bank.prompts"}
    with pytest.raises(CheckpointError, match=r"lacks 1 tensors.*bank\.prompts"):
        Checkpoint(**{**state.__dict__, "tensors": tensors}).build_model()
    with pytest.raises(CheckpointError, match="does not have"):
        Checkpoint(**{**state.__dict__, "tensors": {**state.tensors, "extra": torch.zeros(1)}}).build_model()


def test_a_damaged_or_foreign_file_is_no_checkpoint(tmp_path: Path) -> None:
    _, _, state = trained(None)
    path = tmp_path / "x.pt"
    save_checkpoint(path, state)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:100]):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load_checkpoint(path)
    torch.save({"weights": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of pfm"):
        load_checkpoint(path)
    torch.save({"format": "pfm-checkpoint", "version": 99}, path)
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(path)
    torch.save({"format": "pfm-checkpoint", "version": 1}, path)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


# --- the paper tool's files -----------------------------------------------------------------------


@torch.no_grad()
def test_a_file_of_the_papers_tool_gives_the_logits_its_weights_imply(tmp_path: Path) -> None:
    path, vit, state = paper_file(tmp_path / "bloodmnist_seed_42_10.pt")
    checkpoint = load_checkpoint(path)
    assert any("assumed 2 heads of 64" in note for note in checkpoint.notes)
    images = torch.randn(2, 3, 32, 32)
    for seen in ([0, 1, 2], [2, 0], [1]):
        found = checkpoint.build_model().logits(images, torch.tensor([seen] * 2))
        # float32 rounding on logits of about 10
        torch.testing.assert_close(found, paper_logits(vit, state, images, seen), atol=1e-4, rtol=0)


def test_a_paper_file_takes_preprocessing_from_the_backbone_named(tmp_path: Path) -> None:
    path, vit, _ = paper_file(tmp_path / "x.pt")
    vit.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1] * 3, "image_std": [0.2] * 3})
    )
    checkpoint = load_checkpoint(path, model_name=str(tmp_path / "vit"))
    assert checkpoint.notes == ()
    assert isinstance(checkpoint.preprocess, ImagePreprocess)
    assert checkpoint.preprocess.mean == (0.1, 0.1, 0.1)
    checkpoint.build_model()


def test_a_paper_file_beside_another_backbone_is_refused(tmp_path: Path) -> None:
    path, _, _ = paper_file(tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="another backbone"):
        load_checkpoint(path, model_name="scratch:vit_digits")


def test_an_incomplete_paper_file_is_refused(tmp_path: Path) -> None:
    path, _, state = paper_file(tmp_path / "x.pt")
    for broken in (
        {k: v for k, v in state.items() if not k.startswith("prompt_dict")},
        {k: v for k, v in state.items() if k != "classifier.bias"},
        {**state, "classifier.weight": torch.zeros(5, 128)},
        {**state, "other": torch.zeros(1)},
    ):
        torch.save({"model_state_dict": broken}, path)
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_saving_twice_gives_files_of_the_same_content(tmp_path: Path) -> None:
    _, _, state = trained(None)
    for name in ("a.pt", "b.pt"):
        save_checkpoint(tmp_path / name, state)
    first, second = (load_checkpoint(tmp_path / name) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert math.isclose((tmp_path / "a.pt").stat().st_size, (tmp_path / "b.pt").stat().st_size, abs_tol=64)
