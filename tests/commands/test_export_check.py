"""`pfm export check`: a bundle that fails is refused in one line, one with erased classes is still checked."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from making.bundles import spoiled
from making.checkpoints import image_checkpoint
from making.images import write_npz
from making.models import NAMES
from pfm.cli import pfm, run
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import save_checkpoint
from pfm.storage import sha256
from pfm_export.graph.export import export_bundle
from pfm_export.graph.parity import ParityError, check_parity
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.manifest import write_manifest
from pfm_export.serving.signature import MODEL


@pytest.fixture(scope="module", params=["cls", pytest.param("prompt", marks=pytest.mark.slow)])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("check")
    checkpoint = image_checkpoint(request.param)
    save_checkpoint(folder / "model.pt", checkpoint)
    export_bundle(checkpoint, folder / "bundle")
    return folder / "model.pt", folder / "bundle"


@pytest.fixture
def saved(whole: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    return whole[0], Path(shutil.copytree(whole[1], tmp_path / "bundle"))


def check(ckpt: Path, bundle: Path) -> int:
    return run(pfm, ["export", "check", str(bundle), "--ckpt", str(ckpt)])


def test_a_right_bundle_passes_before_and_after_an_erasure(
    saved: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt, bundle = saved
    assert check(ckpt, bundle) == 0
    said = capsys.readouterr().out
    assert "is right: worst of 12 cases" in said
    for batch_size in (1, 3, 8):
        for count in (0, 1, 2, 4):
            assert f"batch {batch_size}, random inputs, {count} prompts" in said
    Bundle.open(bundle).erase(["green"])
    assert check(ckpt, bundle) == 0
    assert "random inputs, 3 prompts" in capsys.readouterr().out


def test_a_bundle_of_another_model_is_refused_in_one_line(
    saved: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt, bundle = saved
    (bundle / MODEL).write_bytes(spoiled((bundle / MODEL).read_bytes()))
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][MODEL]["sha256"] = sha256(bundle / MODEL)
    write_manifest(bundle, manifest)
    assert check(ckpt, bundle) == 2
    said = capsys.readouterr()
    assert "off, more than" in said.err
    assert said.err.count("\n") == 1
    assert "batch 8" in said.out  # every case is still shown


def test_rows_that_are_not_the_checkpoints_are_noticed(saved: tuple[Path, Path]) -> None:
    _, bundle = saved
    checkpoint = image_checkpoint(Bundle.open(bundle).stated.readout)
    prompts = checkpoint.tensors["bank.prompts"]
    swapped = {**checkpoint.tensors, "bank.prompts": prompts[[1, 0, 2, 3]]}
    with pytest.raises(ParityError, match="off, more than"):
        check_parity(type(checkpoint)(**{**vars(checkpoint), "tensors": swapped}).build_model(), bundle)


def test_a_bundle_that_is_not_of_the_checkpoint_is_refused(saved: tuple[Path, Path]) -> None:
    _, bundle = saved
    readout = Bundle.open(bundle).stated.readout
    less = erase(image_checkpoint(readout), ["blue"])
    with pytest.raises(ParityError, match="classes that the checkpoint lacks: blue"):
        check_parity(less.build_model(), bundle)
    other = image_checkpoint("prompt" if readout == "cls" else "cls")
    with pytest.raises(ParityError, match=f"its readout is {readout}"):
        check_parity(other.build_model(), bundle)


@pytest.mark.slow
def test_an_export_in_int8_says_what_it_costs_and_can_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(tmp_path / "colours.npz", size=11)
    of_run = {"data": {"dataset": str(data), "class_names": ",".join(NAMES)}}
    ckpt, bundle = tmp_path / "model.pt", tmp_path / "bundle"
    save_checkpoint(ckpt, dataclasses.replace(image_checkpoint(), run=of_run))
    export = ["export", "onnx", "--ckpt", str(ckpt), "--out", str(bundle), "--precision", "int8", "--uint8_input"]
    assert run(pfm, [*export, "--test_samples", "10"]) == 0
    said = capsys.readouterr().out
    assert "on 10 test samples" in said
    assert "bundle int8" in said
    data.unlink()  # without the data a bundle can still be written, and says so; unless the data was asked for
    assert run(pfm, [*export, "--overwrite"]) == 0
    assert "note: accuracy is not measured: " in capsys.readouterr().out
    assert run(pfm, [*export, "--overwrite", "--dataset", str(data)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert check(ckpt, bundle) == 0
