"""Every family against the library's own forward, with its prompts absent, and at another size.

Letters: B batch, T tokens, D hidden size.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from making.families import CASES, MORE, Case, assert_near
from making.images import write_npz
from making.models import tiny_model
from pfm.backbones.backbone import SUMMARY, Backbone
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import FAMILIES
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.cli import pfm, run
from pfm.data.decoding import ImageDecoding, fit_pixels
from pfm.data.images import ImageStorage, preprocess_from_hf
from pfm.model.checkpoint import load_checkpoint
from pfm.model.flops import StepWork, step_flops
from pfm_export.graph.form import GraphForm
from pfm_export.graph.tracing import export_graphs
from pfm_export.serving.session import PromptSession


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
        assert_near(found, expected)
        read = backbone.read(tokens, 0, SUMMARY, is_normalised=True)[:, 0]
        assert_near(read, summary)
    # no prompt is there: the plain backbone, whatever the prompts are
    model = tiny_model(backbone=backbone, prompt_layer=1)
    assert model.config.final_norm is backbone.spec.family.final_norm
    nothing = model.read(model.trunk(pixels), model.bank.gather(torch.zeros(2, 0, dtype=torch.long)))[:, 0]
    plain = backbone.read(tokens, 0, SUMMARY, is_normalised=backbone.spec.family.final_norm)[:, 0]
    assert_near(nothing, plain)
    if model.config.final_norm:
        assert_near(nothing, summary)
    # prompts have no place: their order says nothing, and each of them changes the answer
    given = model.logits(pixels, torch.tensor([[0, 2]] * 2))
    assert_near(given, model.logits(pixels, torch.tensor([[2, 0]] * 2)))
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
    elsewhere = {"timm", "raw_pixels"}  # by `test_timm_layout.py`; and not a model of anybody's
    assert images == {*CASES} | elsewhere


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", list(CASES))
def test_the_graph_gives_the_librarys_summary_at_two_sizes(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    reference = case.make(tmp_path)
    for size in (case.size, case.other):
        backbone, pixels = load(tmp_path, size), pixels_of(size)
        model = tiny_model(backbone=backbone, num_classes=32, final_norm=True)
        preprocess = backbone.spec.preprocess or ImageStorage(size).default_preprocess((3, size, size))
        (graph,) = export_graphs(model, GraphForm(), preprocess).values()
        nothing = {"prompts": np.zeros((0, 32), np.float32), "class_bias": np.zeros(32, np.float32),
                   "class_weight": np.eye(32, dtype=np.float32)}  # the logits are what is read  # fmt: skip
        session = onnxruntime.InferenceSession(graph)
        (found,) = session.run(None, {"pixel_values": pixels.numpy(), **nothing})
        assert_near(torch.from_numpy(found), case.forward(reference, pixels)[1])


# how one family is exported, so that every form meets several kinds of blocks
FORMS: dict[str, tuple[str, ...]] = {
    "vit": (),
    "deit": ("--precision", "fp16"),
    "dinov2": ("--split",),
    "dinov2_with_registers": ("--precision", "int8"),
    "dinov3_vit": ("--input", "images"),
    "clip_vision_model": ("--per_request_prompts",),
    "siglip_vision_model": ("--split", "--input", "images"),
    "siglip2_vision_model": ("--precision", "fp16"),
}


def call(*arguments: object) -> None:
    assert run(pfm, [str(argument) for argument in arguments]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["cls", "prompt"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_family_trains_forgets_is_exported_and_served(name: str, readout: str, tmp_path: Path) -> None:
    CASES[name].make(tmp_path / "backbone")
    data = write_npz(tmp_path / "colours.npz", size=16)
    call("train", "--dataset", data, "--model_name", tmp_path / "backbone", "--epochs", 2, "--batch_size", 16,
         "--lr", 0.01, "--save_dir", tmp_path / "run", "--readout", readout,
         "--wrong_target", "none" if readout == "prompt" else "uniform", "--prompt_layer", 1, "--cache_trunk", "device",
         "--gradient_checkpointing", "--eval_every", 0, "--cpu")  # fmt: skip
    checkpoint = tmp_path / "run" / "colours_seed_42_2.pt"
    bundle = tmp_path / "bundle"
    call("export", "onnx", "--ckpt", checkpoint, "--out", bundle, *FORMS[name])  # which checks parity with the model
    images = list(np.load(data)["test_images"])
    before = PromptSession(bundle, device="cpu").predict_images(images)
    assert "2" in before.classes
    call("forget", "--classes", "2", "--in_place", checkpoint, bundle)
    session = PromptSession(bundle, device="cpu")
    assert "2" not in session.predict_images(images).classes
    assert json.loads((bundle / "config.json").read_text())["model_type"] == name
    model = load_checkpoint(checkpoint).build_model()
    assert model.num_classes == 3
    assert model.config.final_norm is model.backbone.spec.family.final_norm


@torch.no_grad()
@pytest.mark.parametrize("name", ["dinov2_with_registers", "dinov3_vit", "siglip_vision_model"])
def test_the_flop_count_of_a_family_is_what_torch_counts(name: str, tmp_path: Path) -> None:
    CASES[name].make(tmp_path / name)
    backbone = load(tmp_path / name)
    model = tiny_model(backbone=backbone)
    model.backbone.encoder.set_eager(True)
    with FlopCounterMode(display=False) as counted:
        model.logits(pixels_of(16)[:1], torch.tensor([[0, 1]]))
    work = StepWork(prompts=(2.0,), num_scores=model.num_classes, rank=0, has_backward=False)
    assert step_flops(backbone.spec, work) == counted.get_total_flops()


def fitted(pixels: np.ndarray, processor: dict[str, Any], size: int) -> np.ndarray:
    """An image (H, W, 3) as training, service and the paper's tool get it: by the processor's rule, (S, S, 3)."""
    storage = preprocess_from_hf(processor, size).storage
    assert isinstance(storage, ImageStorage)
    decoding = ImageDecoding(fit=storage.fit, keep=storage.keep, resample=storage.resample, size=size)
    return fit_pixels(pixels, decoding)


@pytest.mark.parametrize(
    ("processor", "name"),
    [
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
          "resample": 3}, "BitImageProcessor"),  # DINOv2
        ({"size": {"shortest_edge": 224}, "crop_size": 224, "do_center_crop": True, "resample": 3},
         "CLIPImageProcessor"),
        ({"size": {"height": 224, "width": 224}, "resample": 3}, "SiglipImageProcessor"),
        ({"size": {"height": 256, "width": 256}, "crop_size": {"height": 224, "width": 224}, "do_center_crop": True,
          "resample": 3}, "DeiTImageProcessor"),
    ],
)  # fmt: skip
def test_an_image_is_cropped_and_resized_as_the_backbones_processor_does(processor: dict[str, Any], name: str) -> None:
    import transformers

    rows, columns = np.mgrid[0:320, 0:480]
    waves = [np.sin(rows / a) * np.cos(columns / b) for a, b in ((9, 13), (17, 11), (23, 29))]
    pixels = np.round(np.stack(waves, axis=2) * 100 + 128).astype(np.uint8)
    reference = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    made = reference(**processor, do_rescale=False, do_normalize=False)(pixels, return_tensors="np")
    expected = np.moveaxis(made["pixel_values"][0], 0, 2)
    found = fitted(pixels, processor, 224)
    assert found.shape == expected.shape == (224, 224, 3)
    # they round the longer side to whole pixels before they cut, and so are off by a fraction of one
    assert np.abs(found - expected.astype(float)).mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["siglip_vision_model", "dinov2_with_registers"])
def test_frozen_features_of_a_family_are_solved_exported_and_forgotten(name: str, tmp_path: Path) -> None:
    CASES[name].make(tmp_path / "backbone")
    data = write_npz(tmp_path / "colours.npz", size=16)
    call("train", "--dataset", data, "--model_name", tmp_path / "backbone", "--readout", "ridge", "--save_dir",
         tmp_path / "run", "--cpu")  # fmt: skip
    checkpoint = next((tmp_path / "run").glob("*.pt"))
    bundle = tmp_path / "bundle"
    call("export", "onnx", "--ckpt", checkpoint, "--out", bundle)
    call("forget", "--classes", "2", "--in_place", checkpoint, bundle)
    answers = PromptSession(bundle, device="cpu").predict_images(list(np.load(data)["test_images"]))
    assert "2" not in answers.classes


@pytest.mark.slow
def test_the_page_on_training_has_the_backbones_that_the_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    call("backbones", "--json")
    rows = [row for row in json.loads(capsys.readouterr().out) if row["model_name"]]
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    for row in rows:
        licence = f"{row['licence']}, gated" if row["is_gated"] else row["licence"]
        numbers = f"{row['million_weights']:g} | {row['tokens']:,} | {row['gflop']:g}"
        shown = f"| `{row['model_name']}` | `scratch:{row['preset']}` | {numbers} | {licence} | {row['good_at']} |"
        assert f"| {row['family']} {shown}" in page
    call("backbones")
    table = capsys.readouterr().out
    assert all(row["model_name"] in table for row in rows)
    call("backbones", "--sources")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == [row["model_name"] for row in rows]
    assert all(line.endswith(row["source"] or "not checked") for line, row in zip(lines[1:], rows, strict=True))
