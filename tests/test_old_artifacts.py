"""Checkpoints and bundles of an earlier version load, evaluate, erase and serve, with the numbers that they had.

`tests/old` was written by commit d9cf88a: `pfm train` for 40 epochs on the images of `making.images` (width 16,
two blocks, seed 7; `cls` with LoRA and an average, `prompt` with `--wrong_target none` and all weights trained), then
`pfm export onnx`; `expected.json` holds what that version answered.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version

from making.images import coloured_images, write_npz
from pfm.cli import pfm, run
from pfm.forgetting import ledger
from pfm.model.checkpoint import load_checkpoint
from pfm.model.draws import shared_set
from pfm_export.graph.parity import check_parity
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

OLD = Path(__file__).parent / "old"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
INPUTS = np.sin(np.arange(3 * 3 * 8 * 8, dtype=np.float64)).reshape(3, 3, 8, 8).astype(np.float32)
SETS: dict[str, list[str | int]] = {"4": [0, 1, 2, 3], "2": [0, 2]}
MODES = ("full_bank", "class_0", "class_1", "class_2", "class_3", "match_only", "all_wrong", "none", "infer_best")


@pytest.fixture(params=EXPECTED)
def name(request: pytest.FixtureRequest) -> str:
    if request.param == "cls" and Version(transformers.__version__) < Version("5.23"):
        pytest.skip("the frozen weights are drawn by the library, and older ones draw the CLS token otherwise")
    return request.param


@pytest.fixture
def copied(name: str, tmp_path: Path) -> Path:
    """A folder with the checkpoint and the bundle."""
    shutil.copy(OLD / f"{name}.pt", tmp_path)
    shutil.copytree(OLD / name, tmp_path / name)
    return tmp_path


@torch.no_grad()
def test_an_old_checkpoint_gives_the_logits_it_gave(name: str) -> None:
    model = load_checkpoint(OLD / f"{name}.pt").build_model()
    for key, active in SETS.items():
        positions = [int(number) for number in active]
        logits = model.logits(torch.from_numpy(INPUTS), shared_set(positions, 3, torch.device("cpu")))[:, positions]
        # float32, of logits up to 20: another order of the same sums
        np.testing.assert_allclose(logits.numpy(), EXPECTED[name]["logits"][key], rtol=2e-6, atol=2e-6)


def test_an_old_checkpoint_evaluates_as_it_did(name: str, tmp_path: Path) -> None:
    data = write_npz(tmp_path / "colours.npz")
    arguments = ["--dataset", str(data), "--save_dir", str(tmp_path), "--seed", "7", "--cpu"]
    assert run(pfm, ["eval", "--ckpt", str(OLD / f"{name}.pt"), *arguments]) == 0
    found = json.loads((tmp_path / "colours_seed_7_evaluation.json").read_text())["modes"]
    for mode in MODES:
        assert found[mode] == pytest.approx(EXPECTED[name]["accuracies"][mode]), mode


def test_an_old_bundle_serves_what_it_served(name: str) -> None:
    session = PromptSession(OLD / name, device="cpu", warm_up=[1])
    for key, active in SETS.items():
        np.testing.assert_allclose(session.scores(INPUTS, active), EXPECTED[name]["scores"][key], rtol=1e-5, atol=1e-5)
    prediction = session.predict(INPUTS)
    assert prediction.labels == EXPECTED[name]["labels"]
    np.testing.assert_allclose(prediction.probabilities, EXPECTED[name]["probabilities"], rtol=1e-4, atol=1e-6)
    images, labels = coloured_images(22, seed=4)
    assert session.predict_images(list(images)).labels == [str(label) for label in labels[:, 0]]


def test_an_old_bundle_still_agrees_with_its_checkpoint(name: str) -> None:
    model = load_checkpoint(OLD / f"{name}.pt").build_model()
    assert len(check_parity(model, OLD / name).cases) == 12


def test_an_old_bundle_suspends_and_restores(name: str, copied: Path) -> None:
    assert run(pfm, ["suspend", "--classes", "1", "--profile", "ward", str(copied / name)]) == 0
    session = PromptSession(copied / name, device="cpu")
    assert session.active(profile="ward") == ("0", "2", "3")
    assert session.active() == ("0", "1", "2", "3")
    session.restore([1], profile="ward")
    assert len(session.active(profile="ward")) == 4


def test_a_class_is_erased_from_old_artifacts(name: str, copied: Path) -> None:
    rows = Bundle.open(copied / name).rows([1])
    secrets = [array.tobytes() for array in (rows.prompts, rows.weight) if array is not None]
    files = [path for path in copied.rglob("*") if path.is_file()]
    assert all(any(secret in path.read_bytes() for path in files) for secret in secrets)  # the control
    assert run(pfm, ["forget", "--classes", "1", "--in_place", str(copied)]) == 0
    for path in copied.rglob("*"):
        assert not path.is_file() or not any(secret in path.read_bytes() for secret in secrets), path
    assert load_checkpoint(copied / f"{name}.pt").classes.names == ("0", "2", "3")
    assert len(ledger.read(copied / name / "ledger.jsonl")) == 1
    session = PromptSession(copied / name, device="cpu")
    assert session.predict(INPUTS).classes == ("0", "2", "3")
    found, whole = session.scores(INPUTS), PromptSession(OLD / name, device="cpu").scores(INPUTS, without=["1"])
    if rows.weight is not None:  # the rows that are left were centred, which moves all scores of an input by one number
        found, whole = (scores - scores.mean(axis=1, keepdims=True) for scores in (found, whole))
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-6)
    check_parity(load_checkpoint(copied / f"{name}.pt").build_model(), copied / name)
