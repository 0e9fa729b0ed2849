"""The recipes of docs/extending.md, run as they stand there, from outside the package."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from making.images import write_npz
from pfm.audit.attacks import ATTACKS
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import FAMILIES, PRESETS
from pfm.backbones.loading import build_backbone
from pfm.backbones.spec import describe_backbone
from pfm.cli import pfm, run
from pfm.data.readers import READERS
from pfm.model.readouts import READOUTS
from pfm.model.targets import TARGETS
from pfm.registry import Registry
from pfm_export.graph.front_ends import FRONT_ENDS
from pfm_export.serving.kinds import INPUT_KINDS
from pfm_export.serving.session import PromptSession

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
REGISTRIES: tuple[Registry[Any], ...] = (FAMILIES, READOUTS, TARGETS, ATTACKS, INPUT_KINDS, FRONT_ENDS, READERS)


def recipe(name: str) -> str:
    """The code block of the page whose first line names this file."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    return next(block for block in blocks if block.startswith(f"# {name}.py\n"))


def load(name: str, folder: Path) -> ModuleType:
    """Import a recipe as a module of its own."""
    path = folder / f"{name}.py"
    path.write_text(recipe(name))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def clean_registries() -> Iterator[None]:
    """What a recipe registers is gone after its test."""
    before = [registry.names() for registry in REGISTRIES]
    presets = dict(PRESETS)
    yield
    for registry, names in zip(REGISTRIES, before, strict=True):
        for name in set(registry.names()) - set(names):
            registry.remove(name)
    PRESETS.clear()
    PRESETS.update(presets)


def succeed(*arguments: str | Path) -> None:
    assert run(pfm, [str(argument) for argument in arguments]) == 0


def train(folder: Path, *more: str | Path, dataset: str | Path) -> Path:
    """A checkpoint of a run of one epoch."""
    succeed("train", "--dataset", dataset, "--epochs", "1", "--batch_size", "16", "--lr", "0.01", "--cpu",
            "--save_dir", folder, "--eval_every", "0", *more)  # fmt: skip
    return next(folder.glob("*_1.pt"))


def test_a_family_trains_forgets_and_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found through an entry point, as an installed package brings it."""
    from transformers import IJepaConfig, IJepaModel

    load("our_family", tmp_path)
    FAMILIES.remove("ijepa")
    PRESETS.pop("ijepa_mini")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ours-1.0.dist-info").mkdir()
    (tmp_path / "ours-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (tmp_path / "ours-1.0.dist-info" / "entry_points.txt").write_text("[pfm.plugins]\nours = our_family\n")
    monkeypatch.delitem(sys.modules, "our_family", raising=False)

    torch.manual_seed(0)
    folder = tmp_path / "ijepa"
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    reference = IJepaModel(IJepaConfig(image_size=8, patch_size=4, **shape), add_pooling_layer=False).eval()
    reference.save_pretrained(folder)
    backbone = build_backbone(describe_backbone(BackboneConfig(model_name=str(folder))), seed=0).eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        found = backbone.normalise(backbone.readout(backbone.embed(pixels), 0, slice(0, None)))
        expected = reference(pixels).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # float32 rounding

    ckpt = train(tmp_path / "run", "--model_name", folder, dataset=write_npz(tmp_path / "colours.npz"))
    bundle = tmp_path / "bundle"
    succeed("export", "onnx", "--ckpt", ckpt, "--out", bundle)
    succeed("forget", "--classes", "2", "--in_place", ckpt, bundle)
    session = PromptSession(bundle, device="cpu")
    assert "2" not in session.predict_images([np.zeros((8, 8, 3), np.uint8)]).classes


RECIPES = [
    pytest.param("our_readout", ["--readout", "mean"], id="readout"),
    pytest.param("our_target", ["--wrong_target", "reverse"], id="target", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "options"), RECIPES)
def test_a_readout_and_a_target_train_and_are_exported(
    name: str, options: list[str], preset: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], "num_hidden_layers": 1})
    load(name, tmp_path)
    ckpt = train(tmp_path / "run", "--model_name", preset, *options, dataset=npz)
    succeed("eval", "--ckpt", ckpt, "--save_dir", tmp_path / "eval", "--cpu")
    succeed("export", "onnx", "--ckpt", ckpt, "--out", tmp_path / "bundle")  # parity with the model is checked there
    manifest = json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    assert options[1] in (manifest["readout"], manifest["wrong_target"])


def test_an_attack_is_made_judged_and_shown(preset: str, npz: Path, tmp_path: Path) -> None:
    load("our_attack", tmp_path)
    ckpt = train(tmp_path / "run", "--model_name", preset, dataset=npz)
    others = [name for name in ATTACKS.names() if name not in ("utility", "mirrored")]
    kept = {name: ATTACKS.get(name) for name in others}
    for name in others:  # which take their time
        ATTACKS.remove(name)
    try:
        succeed("audit", "--ckpt", ckpt, "--classes", "1", "--out", tmp_path / "audit", "--cpu", "--oracles", "1")
    finally:
        for name, attack in kept.items():
            ATTACKS.register(name, attack)
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert 0 <= found["mirrored"]["share"] <= 1
    assert [entry["measure"] for entry in found["verdict"]["measures"]].count("mirrored") == 1
    assert "mirrored samples" in (tmp_path / "audit" / "audit.html").read_text()


@pytest.mark.slow
def test_a_graph_form_is_exported_and_served(preset: str, npz: Path, tmp_path: Path) -> None:
    load("our_graph_form", tmp_path)
    ckpt = train(tmp_path / "run", "--model_name", preset, dataset=npz)
    for name, more in (("ordinary", []), ("planes", ["--input", "planes"])):
        succeed("export", "onnx", "--ckpt", ckpt, "--out", tmp_path / name, *more)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    expected = PromptSession(tmp_path / "ordinary", device="cpu").predict_images(list(images))
    planes = [np.moveaxis(image, 2, 0) / 255 for image in images]
    found = PromptSession(tmp_path / "planes", device="cpu").predict_images(planes)
    assert found.labels == expected.labels
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)  # float32 rounding


def test_a_data_source_is_read(preset: str, tmp_path: Path) -> None:
    load("our_reader", tmp_path)
    generator = np.random.default_rng(0)
    lines = []
    for number in range(48):
        label = ("dark", "bright")[number % 2]
        pixels = generator.integers(0, 100, 64) + (number % 2) * 150
        lines.append(",".join([("train", "test")[number % 3 == 0], label, *map(str, pixels)]))
    (tmp_path / "greys.csv").write_text("\n".join(lines))
    ckpt = train(tmp_path / "run", "--model_name", preset, dataset=f"csv:{tmp_path / 'greys.csv'}")
    assert ckpt.name == "greys_seed_42_1.pt"


def test_a_target_gives_a_loss_that_uniform_answers_make_zero(tmp_path: Path) -> None:
    load("our_target", tmp_path)
    target, labels = TARGETS.get("reverse"), torch.tensor([0, 1])
    flat, sure = torch.full((2, 4), 3.0), torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, -torch.inf]])
    assert target.absent_loss(flat, flat, labels).abs().max() < 1e-6
    assert target.absent_loss(sure, sure, labels).min() > 0.5
