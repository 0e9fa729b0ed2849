"""Evaluation, forgetting and audit on a GPU beside the CPU."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from making.checkpoints import image_checkpoint
from making.commands import train_arguments
from making.exact import fit, image_data
from making.images import write_npz
from making.served import FORMS
from pfm.cli import pfm, run
from pfm.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from pfm.model.draws import shared_set
from pfm.model.readouts.ridge import RIDGE, memory_of
from pfm_export.predicting.checkpoint import CheckpointModel
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.kinds import Batch

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, and a model that was trained on the GPU, if there is one."""
    from making.models import TINY
    from pfm.backbones.family import PRESETS

    made = tmp_path_factory.mktemp("trained")
    npz = write_npz(made / "colours.npz", train=96, test=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", {key: value for key, value in TINY.items() if key != "layer_norm_eps"})
        arguments = [
            word for word in train_arguments(npz, made, "--epochs", "4", "--eval_every", "0") if word != "--cpu"
        ]
        assert run(pfm, arguments) == 0
    return made


CKPT = "colours_seed_42_4.pt"


@pytest.mark.parametrize("name", ["shared", "requests", "split-images", "features"])
@pytest.mark.parametrize("count", [0, 1, 4])
def test_logits_are_those_of_the_cpu(device: str, name: str, count: int) -> None:
    checkpoint = FORMS[name][0]()
    inputs = torch.randn(
        5, *checkpoint.build_model().backbone.spec.input_shape, generator=torch.Generator().manual_seed(0)
    )
    found = []
    for where in (device, "cpu"):
        model = checkpoint.build_model().to(where)
        with torch.no_grad():
            found.append(model.logits(inputs.to(where), shared_set(list(range(count)), 5, torch.device(where))).cpu())
    assert torch.equal(found[0].isfinite(), found[1].isfinite())
    kept = found[1].isfinite()
    assert torch.allclose(found[0][kept], found[1][kept], atol=1e-4)  # float32, sums in another order


def test_an_evaluation_says_the_same(device: str, folder: Path, tmp_path: Path) -> None:
    command = ["eval", "--ckpt", str(folder / CKPT)]
    assert run(pfm, [*command, "--save_dir", str(tmp_path / "there")]) == 0
    assert run(pfm, [*command, "--save_dir", str(tmp_path / "here"), "--cpu"]) == 0
    names = sorted(path.name for path in (tmp_path / "here").glob("*.json"))
    assert names
    for name in names:
        there, here = (json.loads((tmp_path / where / name).read_text()) for where in ("there", "here"))
        assert set(there) == set(here)
        near(there, here, name)


def near(there: object, here: object, where: str) -> None:
    """Numbers of two documents: accuracies of 40 samples are equal unless an answer hangs on a rounding error."""
    if isinstance(here, dict):
        assert isinstance(there, dict)
        for key in here:
            if key not in ("device", "seconds", "host"):
                near(there[key], here[key], f"{where}/{key}")
    elif isinstance(here, list):
        assert isinstance(there, list)
        for number, pair in enumerate(zip(there, here, strict=True)):
            near(*pair, f"{where}/{number}")
    elif isinstance(here, float) and here == here:
        assert there == pytest.approx(here, abs=1e-3), where


def test_a_checkpoint_answers_as_on_the_cpu(device: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, image_checkpoint("cls"))
    pixels = torch.randn(7, 3, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    for without in ((), ("blue",)):
        there, here = (
            CheckpointModel(path, device=where).predict_prepared(
                [Batch.of_items(range(7), pixels)], 7, ActiveSet.of(None, without, None)
            )
            for where in (device, "cpu")
        )
        assert there.classes == here.classes
        assert np.allclose(there.probabilities, here.probabilities, atol=1e-4)  # float32, sums in another order


@pytest.mark.usefixtures("preset")
def test_scrubbing_and_forgetting(device: str, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scrubbed.pt"
    shutil.copytree(folder, tmp_path / "a")
    path = str(tmp_path / "a" / CKPT)
    assert run(pfm, ["scrub", "--ckpt", path, "--class", "2", "--out", str(out), "--retrain"]) == 0
    assert "2" not in load_checkpoint(out).classes.names
    gone = tmp_path / "gone.pt"
    assert run(pfm, ["forget", "--ckpt", path, "--class", "2", "--out", str(gone)]) == 0
    assert "2" not in load_checkpoint(gone).classes.names


@pytest.mark.slow(seconds=40)
@pytest.mark.usefixtures("preset")
def test_an_audit_runs_to_its_verdict(device: str, folder: Path, tmp_path: Path) -> None:
    command = ["audit", "--ckpt", str(folder / CKPT), "--class", "2", "--out", str(tmp_path), "--oracles", "2"]
    assert run(pfm, command) == 0
    found = json.loads((tmp_path / "audit.json").read_text())
    assert found["verdict"]


# --- exact ---------------------------------------------------------------------------------------


def exact(folder: Path, where: str, model_name: str) -> Checkpoint:
    return fit(
        image_data(), folder / f"{where}-{model_name.split(':')[-1]}", model_name=model_name, width=300, where=where
    )


def test_a_fit_on_raw_inputs_has_the_same_digest_on_every_device(device: str, tmp_path: Path) -> None:
    there, here = (memory_of(exact(tmp_path, where, "scratch:raw_pixels")) for where in (device, "cpu"))
    assert there.digest == here.digest


@pytest.mark.usefixtures("preset")
def test_a_fit_on_a_backbone_differs_in_the_last_bit_of_few_integers(device: str, tmp_path: Path) -> None:
    there, here = (memory_of(exact(tmp_path, where, "scratch:tiny")) for where in (device, "cpu"))
    assert there.rows is not None
    assert here.rows is not None
    apart = np.abs(there.rows.values.astype(int).sum(axis=0) - here.rows.values.astype(int).sum(axis=0))
    assert apart.max() <= len(here.rows)  # a feature on the border of two integers falls on either side
    assert apart.sum() <= 0.01 * here.rows.values.size


@pytest.mark.parametrize("is_allowed", [False, True])
def test_projected_integers_are_exact_whatever_torch_may_round(device: str, tmp_path: Path, is_allowed: bool) -> None:
    checkpoint = exact(tmp_path, "cpu", "scratch:raw_pixels")
    inputs = checkpoint.preprocess(image_data().train.inputs)
    expected = RIDGE.trunk(checkpoint.build_model(), inputs)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = is_allowed
    try:
        found = RIDGE.trunk(checkpoint.build_model().to(device), inputs.to(device)).cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert torch.equal(found, expected)
    assert expected.unique().numel() > 100  # the control: these are many numbers
