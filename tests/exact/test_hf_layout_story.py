"""ViT-Ti of random weights in Hugging Face layout, from the command line: fit, forget, export, serve, learn."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from making.images import write_npz
from pfm.backbones.family import PRESETS
from pfm.cli import pfm, run
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm_export.serving.session import PromptSession

SIDE = 32


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """The shape of ViT-Ti for a smaller input: 12 blocks of width 192, patches of 16."""
    shape = {**PRESETS["vit_tiny_patch16_224"], "image_size": SIDE}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**shape), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def pfm_made(*arguments: object) -> None:
    assert run(pfm, [str(argument) for argument in arguments]) == 0


@pytest.mark.slow
def test_a_backbone_in_hugging_face_layout_is_fitted_forgotten_exported_served_and_learned(
    vit: Path, tmp_path: Path
) -> None:
    colours = write_npz(tmp_path / "colours.npz", train=48, test=8, size=SIDE)
    arrays = dict(np.load(colours))
    chosen = {split: arrays[f"{split}_labels"][:, 0] >= 2 for split in ("train", "test")}
    arrays = {name: values[chosen[name.partition("_")[0]]] for name, values in arrays.items()}
    two = tmp_path / "two.npz"
    np.savez(two, **{name: values - np.uint8(2) if "labels" in name else values for name, values in arrays.items()})
    common = ("--model_name", vit, "--readout", "ridge", "--width", 256, "--eval_every", 0, "--cpu")
    pfm_made("train", "--dataset", colours, *common, "--save_dir", tmp_path / "run")
    (path,) = (tmp_path / "run").glob("*.pt")
    whole = load_checkpoint(path)
    assert (whole.spec.hidden_size, whole.frozen_sha256 != "") == (192, True)

    pfm_made("export", "onnx", "--ckpt", path, "--out", tmp_path / "bundle", "--with_sums")
    session = PromptSession(tmp_path / "bundle", device="cpu")
    pixels = whole.preprocess(torch.from_numpy(np.load(colours)["test_images"]).permute(0, 3, 1, 2)).numpy()
    assert session.predict(pixels).is_exact
    session.erase(["2", "3"])
    served = session.predict(pixels)
    assert (served.classes, served.is_exact) == (("0", "1"), True)

    pfm_made("forget", "--class", "2", "--class", "3", "--in_place", path)
    erased = load_checkpoint(path)
    assert session.stated.document["exact"]["bank_digest"] == erased.exact["digest"]
    logits = erased.build_model().logits(torch.from_numpy(pixels), torch.tensor([[0, 1]] * len(pixels)))
    np.testing.assert_allclose(session.scores(pixels), logits.detach().numpy(), atol=1e-3)  # features of two engines

    pfm_made("learn", "--ckpt", path, "--dataset", two, "--class_names", "2,3", "--out", tmp_path / "again.pt")
    again = load_checkpoint(tmp_path / "again.pt")
    assert again.exact["digest"] == whole.exact["digest"]
    assert same_rows(again, whole)


def same_rows(first: Checkpoint, second: Checkpoint) -> bool:
    return all(torch.equal(first.tensors[name], second.tensors[name]) for name in ("ridge.weight", "ridge.bias"))
