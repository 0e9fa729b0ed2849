"""Whole runs of each family: several processes, killed and resumed, from cached tokens, in half precision, audited."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from making.audits import SMALL
from making.family_runs import FAMILIES, SEVERAL, call, killed, losses, make_backbone, options, write_data
from making.launching import ROOT, launch
from making.sounds import tone
from making.speech import SPEECH
from pfm.audit.rule import INCONCLUSIVE
from pfm.cli import pfm, run
from pfm.model.checkpoint import load_checkpoint
from pfm_export.commands import audit as audit_command
from pfm_export.serving.session import PromptSession

STEM = "data_seed_42"
SOUND = (tone(700.0, 0.2), 8000)
EXACT_ELSEWHERE = ("siglip_vision_model", "dinov2_with_registers", "wavlm", "hubert")  # with the exact readout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    return write_data(tmp_path_factory.mktemp("family_data"))


# all that could tell one process from two: augmentation, averages, clipping, skewed weights, an uneven last batch
EQUAL = ("--ema", 0.9, "--max_grad_norm", 1, "--balance", "weights", "--eval_batch_size", 4, "--eval_every", 1)
SCRIPT = """
import json, sys; sys.path.insert(0, {root!r})
import torch
from pfm.cli import pfm, run
torch.distributed.destroy_process_group = lambda *_: None  # one group for all runs
for arguments in json.loads({commands!r}):
    if run(pfm, arguments):
        sys.exit(1)
"""


def equal_options(name: str) -> tuple[object, ...]:
    return (*EQUAL, *(("--time_shift", 3) if name in SPEECH else ("--shift", 1, "--hflip")))


@pytest.fixture(scope="module")
def two_processes(data: dict[bool, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all of SEVERAL on two processes, one after the other; the folder of their backbones and runs."""
    folder = tmp_path_factory.mktemp("two")
    commands = []
    for name in SEVERAL:
        backbone = make_backbone(name, folder / f"{name}-backbone")
        commands.append(options(name, backbone, data, folder / name, *equal_options(name), "--batch_size", 4))
    script = folder / "train.py"
    script.write_text(SCRIPT.format(root=str(ROOT), commands=json.dumps(commands)))
    said = launch([sys.executable, "-m", "accelerate.commands.launch", "--config_file",
                   "accelerate_configs/cpu_2.yaml", "--main_process_port", "0", str(script)])  # fmt: skip
    assert said.count("2 process(es) on cpu") == len(SEVERAL)
    return folder


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", SEVERAL)
def test_two_processes_of_half_a_batch_are_one_of_the_whole(
    name: str, data: dict[bool, str], two_processes: Path, tmp_path: Path
) -> None:
    call(*options(name, two_processes / f"{name}-backbone", data, tmp_path, *equal_options(name)))
    found = losses(two_processes / name)
    assert len(found) == 2 * (3 if name in SPEECH else 5)
    assert found == pytest.approx(losses(tmp_path), abs=1e-5)  # rounding, over that many steps
    accuracies = [json.loads((at / f"{STEM}_accuracies.json").read_text()) for at in (tmp_path, two_processes / name)]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow(seconds=9)
@pytest.mark.parametrize("name", SEVERAL)
def test_killed_and_resumed_it_ends_with_the_bytes_of_a_run_that_was_not(
    name: str, data: dict[bool, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = make_backbone(name, tmp_path / "backbone")
    command = options(name, backbone, data, "run", *equal_options(name), "--save_steps", 2)
    for folder in ("whole", "killed"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "whole")
    call(*command)
    for after in (1, 2):  # inside the first epoch; and behind the second file that the resumed run writes
        assert killed([*command, "--resume", "auto"], tmp_path / "killed", after=after) == -signal.SIGKILL
    monkeypatch.chdir(tmp_path / "killed")
    call(*command, "--resume", "auto")
    expected, found = (
        {path.name: path.read_bytes() for path in (tmp_path / at / "run").iterdir() if path.suffix == ".pt"}
        for at in ("whole", "killed")
    )
    assert f"{STEM}_2.pt" in expected
    assert found == expected


@pytest.mark.slow(seconds=6)
@pytest.mark.parametrize("name", FAMILIES)
def test_what_saves_time_and_memory_changes_no_number_of_a_run(
    name: str, data: dict[bool, str], tmp_path: Path
) -> None:
    backbone = make_backbone(name, tmp_path / "backbone")
    saving = ("--cache_trunk", "host", "--gradient_checkpointing")
    runs = {"plain": (), "saving": saving, "half": (*saving, "--mixed_precision", "bf16")}
    for kind, more in runs.items():
        call(*options(name, backbone, data, tmp_path / kind, "--prompt_layer", 1, *more))
    plain, saved, half = (losses(tmp_path / kind) for kind in runs)
    assert saved == pytest.approx(plain, abs=1e-5)  # batches of other sizes go through the trunk
    assert half == pytest.approx(plain, abs=0.05)  # bfloat16 has 8 bits
    assert half != plain
    # and every mode of inference is there, of the half-precision one too
    checkpoint = tmp_path / "half" / f"{STEM}_2.pt"
    call("eval", "--ckpt", checkpoint, "--save_dir", tmp_path / "eval", "--cpu")
    found = json.loads((tmp_path / "eval" / f"{STEM}_evaluation.json").read_text())
    modes = {"full_bank", "full_bank_shuffle", "match_only", "mixed_subset", "all_wrong", "wrong_subset",
             "random_wrong", "none", "infer_best", *(f"class_{number}" for number in range(4))}  # fmt: skip
    assert set(found["modes"]) >= modes
    assert found["modes"]["full_bank"] == found["modes"]["full_bank_shuffle"]
    assert len(found["subsets"]) == 3
    half_model = load_checkpoint(checkpoint).build_model()
    assert half_model.config.final_norm is half_model.backbone.spec.family.final_norm


@pytest.mark.slow(seconds=30)
def test_the_audit_command_judges_a_model_of_samples(
    data: dict[bool, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_command, "QUICK", SMALL)
    backbone = make_backbone("wavlm", tmp_path / "backbone")
    call(*options("wavlm", backbone, data, tmp_path / "run", "--prompt_start", "secret"))
    audit = ("audit", "--ckpt", tmp_path / "run" / f"{STEM}_2.pt", "--classes", "high", "--quick", "--oracles", 1,
             "--out", tmp_path / "audit", "--cpu")  # fmt: skip
    # six steps teach nothing, so that nothing can be shown: that is said, and a level that was asked for is not given
    assert run(pfm, [str(argument) for argument in (*audit, "--require", "suspend")]) == 1
    report = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert set(report["verdict"]["levels"]) >= {"suspend", "erase", "scrub"}
    assert report["verdict"]["levels"]["suspend"] == INCONCLUSIVE
    assert report["utility"]["forgotten"]["forget_accuracy"] == 0  # the row is gone
    assert "<html" in (tmp_path / "audit" / "audit.html").read_text()


@pytest.mark.slow(seconds=12)
@pytest.mark.parametrize("name", ["dinov2-swiglu", "siglip-mean", "timm"])
def test_a_variant_trains_forgets_is_exported_and_served(name: str, data: dict[bool, str], tmp_path: Path) -> None:
    """`test_families.py` and `test_speech.py` tell it of each family; these are others of them."""
    backbone = make_backbone(name, tmp_path / "backbone")
    call(*options(name, backbone, data, tmp_path / "run", "--prompt_layer", 1))
    checkpoint, bundle = tmp_path / "run" / f"{STEM}_2.pt", tmp_path / "bundle"
    call("export", "onnx", "--ckpt", checkpoint, "--out", bundle, "--split")  # which checks parity with the model
    images = list(np.load(data[False])["test_images"])
    assert "2" in PromptSession(bundle, device="cpu").predict_images(images).classes
    call("forget", "--classes", "2", "--in_place", checkpoint, bundle)
    assert "2" not in PromptSession(bundle, device="cpu").predict_images(images).classes
    assert load_checkpoint(checkpoint).build_model().num_classes == 3


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize("name", sorted({*FAMILIES} - {*EXACT_ELSEWHERE}))
def test_frozen_features_of_a_family_are_solved_served_and_forgotten(
    name: str, data: dict[bool, str], tmp_path: Path
) -> None:
    backbone, is_sound = make_backbone(name, tmp_path / "backbone"), name in SPEECH
    call("train", "--dataset", data[is_sound], "--model_name", backbone, "--readout", "ridge", "--width", 64,
         "--save_dir", tmp_path / "run", "--cpu")  # fmt: skip
    (checkpoint,) = (tmp_path / "run").glob("*.pt")
    call("export", "onnx", "--ckpt", checkpoint, "--out", tmp_path / "bundle")
    gone = load_checkpoint(checkpoint).classes.names[2]
    call("forget", "--classes", gone, "--in_place", checkpoint, tmp_path / "bundle")
    session = PromptSession(tmp_path / "bundle", device="cpu")
    found = session.predict_sounds(SOUND) if is_sound else session.predict_images(np.zeros((1, 16, 16, 3), np.uint8))
    assert len(found.classes) == 3
    assert gone not in found.classes
