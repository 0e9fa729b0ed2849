"""Sounds through the command line: trained, evaluated, forgotten, stopped and resumed, audited."""

import dataclasses
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import pfm.training.run
from making.audits import SMALL
from making.checkpoints import same_bytes
from making.commands import Refuse, train_on_sounds
from making.files import files
from making.launching import ROOT, launch
from making.logs import log_records
from making.models import TINY_AST
from making.sounds import PITCHES, write_tones
from pfm.backbones.config import AUDIO_DEFAULT
from pfm.backbones.family import PRESETS
from pfm.cli import pfm as command
from pfm.cli import run
from pfm.data.config import DataConfig
from pfm.data.loading import load_data
from pfm.data.sounds import SoundPreprocess, SoundStorage, measure_features
from pfm.model.checkpoint import load_checkpoint

NAMES = sorted(PITCHES)
STEM = "tones_seed_42"
# everything that has a state or draws: crops of long clips, masks, shifts, averages, dropout
VARIED = ["--epochs", "3", "--batch_size", "8", "--time_shift", "3", "--time_mask", "4", "--mel_mask", "2",
          "--ema", "0.9", "--optimizer", "adamw", "--eval_batch_size", "16", "--log_every", "1"]  # fmt: skip


def call(arguments: list[str]) -> None:
    assert run(command, arguments) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Clips up to twice as long as the model's window, and the folder of a model trained on them."""
    folder = tmp_path_factory.mktemp("hearing")
    data = write_tones(folder / "tones", train=16, test=6, seconds=0.6)
    PRESETS["tiny_ast"] = TINY_AST
    try:
        call(train_on_sounds(data, folder / "run", "--epochs", "25", "--batch_size", "16", "--eval_every", "0"))
    finally:
        del PRESETS["tiny_ast"]
    return data, folder / "run"


def test_a_model_of_pitches_is_trained_evaluated_and_forgets(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = trained
    path = folder / f"{STEM}_25.pt"
    call(["eval", "--ckpt", str(path), "--save_dir", str(tmp_path / "eval"), "--cpu"])
    said = capsys.readouterr().out
    assert re.search(r"data set tones: 4 classes, sounds of up to \d+ frames of 16 mel bins", said)  # of the test split
    table = json.loads((tmp_path / "eval" / f"{STEM}_inference_accuracies.json").read_text())
    assert table["1"]["retain_mean"] > 0.9
    assert table["1"]["forget_mean"] < 0.5

    call(["eval", "--ckpt", str(path), "--suspend", "high", "--save_dir", str(tmp_path / "eval"), "--cpu"])
    assert "suspended (reversible, nothing erased): high" in capsys.readouterr().out

    call(["forget", "--ckpt", str(path), "--classes", "high", "--out", str(tmp_path / "less.pt")])
    less = load_checkpoint(tmp_path / "less.pt")
    assert less.classes.names == ("low", "middle", "top")
    assert less.preprocess == load_checkpoint(path).preprocess
    row = load_checkpoint(path).tensors["bank.prompts"][NAMES.index("high")].numpy().tobytes()
    assert row in path.read_bytes()  # the control
    assert row not in (tmp_path / "less.pt").read_bytes()
    call(["eval", "--ckpt", str(tmp_path / "less.pt"), "--save_dir", str(tmp_path / "eval_less"), "--cpu"])


def test_a_checkpoint_of_sounds_says_how_features_are_made(trained: tuple[Path, Path]) -> None:
    data, folder = trained
    checkpoint = load_checkpoint(folder / f"{STEM}_25.pt")
    loaded = load_data(DataConfig(dataset=f"audiofolder:{data}"), SoundStorage(16_000, 16))
    mean, std = measure_features(loaded.train.inputs)
    assert checkpoint.preprocess == SoundPreprocess(max_length=32, mean=mean, std=std, num_mel_bins=16)


def test_without_a_name_the_backbone_of_sounds_is_the_papers(
    capsys: pytest.CaptureFixture[str], tones: Path, tmp_path: Path
) -> None:
    """No download happens in tests, so the refusal names which one was asked for."""
    code = run(command, ["train", "--dataset", f"audiofolder:{tones}", "--save_dir", str(tmp_path / "out"), "--cpu"])
    assert code == 2
    assert f"cannot load backbone {AUDIO_DEFAULT!r}" in capsys.readouterr().err


@pytest.mark.usefixtures("sound_preset")
def test_stopped_inside_an_epoch_and_resumed_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tones(tmp_path / "tones", train=6, test=2, seconds=0.6)
    monkeypatch.setitem(PRESETS, "tiny_ast", {**TINY_AST, "hidden_dropout_prob": 0.1})
    call(train_on_sounds(data, tmp_path / "whole", *VARIED))
    steps = 0
    step = pfm.training.run.training_step

    def step_and_stop(*arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 5:  # of 3 in each of 3 epochs
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    stopped = train_on_sounds(data, tmp_path / "stopped", *VARIED)
    with monkeypatch.context() as patch:
        patch.setattr(pfm.training.run, "training_step", step_and_stop)
        assert run(command, stopped) == 128 + signal.SIGTERM
    assert steps == 5
    call([*stopped, "--resume", "auto"])
    first, second = (load_checkpoint(tmp_path / name / f"{STEM}_3.pt") for name in ("whole", "stopped"))
    assert same_bytes(first, second)
    call([*train_on_sounds(data, tmp_path / "again", *VARIED), "--resume", str(tmp_path / "whole" / f"{STEM}_2.pt")])
    assert same_bytes(first, load_checkpoint(tmp_path / "again" / f"{STEM}_3.pt"))


@pytest.mark.usefixtures("sound_preset")
def test_augmentation_changes_training_and_the_same_seed_repeats_it(tmp_path: Path) -> None:
    data = write_tones(tmp_path / "tones", train=4, test=2, seconds=0.3)  # all of them shorter than the window
    runs = {"plain": [], "masked": ["--time_mask", "8"], "again": ["--time_mask", "8"]}
    for name, more in runs.items():
        call(train_on_sounds(data, tmp_path / name, "--epochs", "1", "--eval_every", "0", *more))
    plain, masked, again = (load_checkpoint(tmp_path / name / f"{STEM}_1.pt") for name in runs)
    assert same_bytes(masked, again)
    assert not torch.equal(plain.tensors["bank.prompts"], masked.tensors["bank.prompts"])


@pytest.mark.usefixtures("sound_preset")
def test_a_trunk_is_cached_of_short_clips_and_refused_of_long_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--tune", "lora", "--prompt_layer", "1", "--epochs", "1", "--batch_size", "8"]
    short = write_tones(tmp_path / "tones", train=4, test=2, seconds=0.3)
    for name, where in (("cached", "host"), ("plain", "off")):
        call(train_on_sounds(short, tmp_path / name, *more, "--cache_trunk", where))
    assert "trunk of train: 16 images x 10 tokens" in capsys.readouterr().out
    first, second = (load_checkpoint(tmp_path / name / f"{STEM}_1.pt") for name in ("cached", "plain"))
    for name, tensor in first.tensors.items():
        torch.testing.assert_close(tensor, second.tensors[name], atol=1e-6, rtol=0)  # batches of other sizes

    long = write_tones(tmp_path / "long" / "tones", train=4, test=2, seconds=0.6)
    refuse = Refuse(capsys)
    error = refuse(*train_on_sounds(long, tmp_path / "out", *more, "--cache_trunk", "host"))
    assert "clips longer than the model's window, which are cropped at random" in error
    error = refuse(*train_on_sounds(short, tmp_path / "out", *more, "--cache_trunk", "host", "--time_mask", "2"))
    assert "--cache_trunk keeps what is the same each epoch" in error
    assert files(tmp_path / "out") == []


@pytest.mark.slow
def test_two_processes_of_half_a_batch_are_one_process_of_the_whole(tmp_path: Path) -> None:
    data = write_tones(tmp_path / "tones", train=5, test=3, seconds=1.2)  # ast_mini's window has 96 frames
    base = ["--model_name", "scratch:ast_mini", "--lr", "0.003", *VARIED]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    call([*train_on_sounds(data, tmp_path / "one", *base), "--batch_size", "8", "--epochs", "2"])
    torch.set_num_threads(threads)
    said = launch(
        [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2.yaml",
         "--main_process_port", "0", str(ROOT / "pfm" / "train.py"), "--dataset", f"audiofolder:{data}",
         "--save_dir", str(tmp_path / "two"), *base, "--batch_size", "4", "--epochs", "2"]
    )  # fmt: skip
    assert "2 process(es) on cpu" in said
    losses = []
    for name in ("one", "two"):
        records = log_records(tmp_path / name / f"{STEM}_log.jsonl")
        losses.append([record["loss"] for record in records if record["event"] == "step"])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)  # rounding, over 6 steps
    accuracies = [json.loads((tmp_path / n / f"{STEM}_accuracies.json").read_text()) for n in ("one", "two")]
    assert accuracies[0] == accuracies[1]


@pytest.mark.slow
@pytest.mark.usefixtures("sound_preset")
def test_the_audit_judges_a_model_of_sounds(trained: tuple[Path, Path], tmp_path: Path) -> None:
    from pfm.audit.models import AuditRequest
    from pfm.audit.page import render
    from pfm.audit.protocol import audit

    data, folder = trained
    loaded = load_data(DataConfig(dataset=f"audiofolder:{data}"), SoundStorage(16_000, 16))
    full = load_checkpoint(folder / f"{STEM}_25.pt")
    small = dataclasses.replace(SMALL, attack_steps=5)
    request = AuditRequest(full=full, data=loaded, keys=["high"])
    result = audit(request, small, tmp_path / "models", torch.device("cpu"), say=lambda _: None)
    assert result["utility"]["full"]["forget_accuracy"] > 0.8  # the control
    assert result["utility"]["forgotten"]["forget_accuracy"] == 0
    assert {"suspend", "erase", "scrub"} <= set(result["verdict"]["levels"])
    assert "<html" in render(result)


@pytest.mark.slow
def test_the_audit_command_listens(trained: tuple[Path, Path], tmp_path: Path, sound_preset: str) -> None:
    assert sound_preset
    _, folder = trained
    call(["audit", "--ckpt", str(folder / f"{STEM}_25.pt"), "--classes", "high", "--quick",
          "--out", str(tmp_path / "audit"), "--cpu"])  # fmt: skip
    assert list((tmp_path / "audit").rglob("*.json"))
