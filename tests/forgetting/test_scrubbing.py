"""Scrubbing trains on retained samples alone, says whether it got there, and leaves a checkpoint that is recorded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from making.checkpoints import trained_state
from making.commands import train_arguments
from making.images import coloured_images, write_npz
from making.models import TINY
from pfm.audit import config as audit_config
from pfm.audit import retraining, scrubbing
from pfm.audit.comparisons.tuning import tune
from pfm.audit.config import QUICK
from pfm.audit.retraining import retrain
from pfm.audit.scrubbing import ScrubConfig, scrub, shrink
from pfm.backbones.family import PRESETS
from pfm.cli import pfm, run
from pfm.data.config import DataConfig
from pfm.data.images import ImageStorage
from pfm.data.loading import load_data
from pfm.data.splits import Split
from pfm.errors import ConfigError
from pfm.forgetting import ledger
from pfm.forgetting.keys import load_key, public_hex
from pfm.model.checkpoint import load_checkpoint
from pfm.model.classifier import class_row_names
from pfm.training.config import RunConfig

SMALL = dataclasses.replace(QUICK, sizes=(1,), attack_seeds=2, attack_steps=20, shadows=0)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scrubbed")
    npz = write_npz(folder / "colours.npz", train=160, test=120)
    PRESETS["tiny"] = {key: value for key, value in TINY.items() if key != "layer_norm_eps"}
    try:
        arguments = train_arguments(npz, folder, "--eval_every", "0", "--save_every", "0", "--readout", "prompt")
        assert run(pfm, [*arguments, "--epochs", "10", "--lr", "0.005", "--batch_size", "16"]) == 0
    finally:
        del PRESETS["tiny"]
    return folder


def test_shrinking_moves_shared_weights_towards_the_untrained_ones_and_leaves_rows_alone() -> None:
    state = trained_state()
    model = state.build_model()
    before = {name: tensor.detach().clone() for name, tensor in model.trained_tensors().items()}
    shrink(model, state, 0.25)
    fresh = scrubbing.untrained(state).trained_tensors()
    for name, tensor in model.trained_tensors().items():
        expected = before[name] if name in class_row_names() else 0.25 * before[name] + 0.75 * fresh[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)


def test_a_scrub_that_would_change_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="changes nothing"):
        ScrubConfig(keep=1.0)


def tuned(**options: Any) -> dict[str, torch.Tensor]:
    """What a few steps on skewed data make of a tiny model by a recipe with these options of the objective."""
    state = trained_state()
    model = state.build_model()
    images, labels = coloured_images(48)
    split = Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)[:, 0].long())
    split = split.subset((split.labels != 3).nonzero()[:, 0][:30])
    split = split.subset(torch.cat([torch.arange(30), (split.labels == 0).nonzero()[:, 0].repeat(3)]))
    recipe = RunConfig.from_dict({"train": {"batch_size": 16}, "objective": options})
    tune(model, split, state, recipe, epochs=1, lr=1e-3)
    return {name: tensor.detach() for name, tensor in model.trained_tensors().items()}


@pytest.mark.parametrize(
    "options",
    [{"label_smoothing": 0.2}, {"absent_weight": 0.3}, {"balance": "weights"}, {"balance": "sampling"}],
    ids=lambda options: "-".join(options) + f"-{next(iter(options.values()))}",
)
def test_training_on_takes_every_option_of_the_recipes_objective(options: dict[str, Any]) -> None:
    plain, changed = tuned(), tuned(**options)
    assert all(torch.equal(tensor, plain[name]) for name, tensor in tuned().items())  # the control
    assert any(not torch.equal(tensor, plain[name]) for name, tensor in changed.items())


@pytest.mark.slow
def test_a_scrub_ends_within_the_tolerance_or_with_its_budget_spent(
    folder: Path, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = load_checkpoint(folder / "colours_seed_42_10.pt")
    data = load_data(DataConfig(dataset=str(folder / "colours.npz")), ImageStorage(8))
    seen: list[torch.Tensor] = []
    real = scrubbing.tune

    def spy(model, split, *rest, **named):
        seen.append(split.labels)
        assert len(split) == 120
        real(model, split, *rest, **named)

    monkeypatch.setattr(scrubbing, "tune", spy)
    config = ScrubConfig(epsilon=-1.0, rounds=2, budget=0.4)  # cannot be reached
    scrubbed, report = scrub(full, data, [2], config, SMALL, folder / "models", CPU, say=lambda _: None)
    assert len(seen) == 2
    assert not report.is_within
    assert [entry.epochs for entry in report.rounds] == [0, 2, 2]
    assert scrubbed.classes.ids == (0, 1, 3)
    assert scrubbed.build_model().num_classes == 3
    config = ScrubConfig(epsilon=2.0)  # is reached at once
    untouched, report = scrub(full, data, [2], config, SMALL, folder / "models", CPU, say=lambda _: None)
    assert report.is_within
    assert report.retained_cost == 0
    assert any(not torch.equal(untouched.tensors[name], scrubbed.tensors[name]) for name in untouched.tensors)


@pytest.mark.slow
def test_the_command_writes_a_scrubbed_checkpoint_and_says_so_in_the_record(
    folder: Path, preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit_config, "QUICK", SMALL)
    ckpt, out = folder / "colours_seed_42_10.pt", folder / "out" / "less.pt"
    common = ["scrub", "--classes", "2", "--ckpt", str(ckpt)]
    assert run(pfm, [*common, "--epsilon", "0.01", "--budget", "0.4", "--out", str(out)]) == 0
    assert "within --epsilon 0.01" in capsys.readouterr().out
    assert "the shared weights were retuned" in ledger.read(out.parent / "ledger.jsonl")[-1]["remains"][0]
    assert json.loads(out.with_suffix(".scrub.json").read_text())["rounds"]
    assert load_checkpoint(out).classes.ids == (0, 1, 3)
    assert run(pfm, [*common, "--out", str(out)]) == 2
    assert "exists; choose another file with --out" in capsys.readouterr().err


@pytest.mark.slow
def test_retraining_gives_the_bytes_of_a_run_that_never_had_the_class(
    folder: Path, preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt, out = folder / "colours_seed_42_10.pt", tmp_path / "out" / "less.pt"
    certificate = tmp_path / "certificate.json"
    common = ["scrub", "--retrain", "--classes", "2", "--ckpt", str(ckpt), "--out", str(out)]
    assert run(pfm, [*common, "--epsilon", "0.1"]) == 2
    assert "--epsilon is for retuning" in capsys.readouterr().err
    assert run(pfm, [*common, "--certificate", str(certificate)]) == 0
    said = capsys.readouterr().out
    assert "trained again without the classes: 10 epochs" in said
    assert "follow" not in said  # from a seed: nothing of the class answers to its key

    with np.load(folder / "colours.npz") as held:
        arrays = dict(held)
    for split in ("train", "val", "test"):
        if f"{split}_labels" in arrays:
            labels = arrays[f"{split}_labels"]
            stays = labels[:, 0] != 2
            arrays[f"{split}_images"] = arrays[f"{split}_images"][stays]
            arrays[f"{split}_labels"] = labels[stays] - (labels[stays] > 2)
    np.savez(tmp_path / "colours.npz", **arrays)
    arguments = train_arguments(tmp_path / "colours.npz", tmp_path / "fresh", "--eval_every", "0", "--save_every", "0")
    options = ["--epochs", "10", "--lr", "0.005", "--batch_size", "16", "--class_names", "0,1,3"]
    assert run(pfm, [*arguments, "--readout", "prompt", *options]) == 0

    made, fresh = load_checkpoint(out), load_checkpoint(tmp_path / "fresh" / "colours_seed_42_10.pt")
    assert made.classes.ids == (0, 1, 3)
    assert made.erased == ((2, "2"),)
    assert made.tensors.keys() == fresh.tensors.keys()
    assert all(torch.equal(made.tensors[name], tensor) for name, tensor in fresh.tensors.items())
    record = ledger.read(out.parent / "ledger.jsonl")[-1]
    assert "trained again without a sample" in record["remains"][0]
    report = json.loads(out.with_suffix(".scrub.json").read_text())
    assert (report["method"], report["cache_trunk"], report["epochs"]) == ("retrain", "off", 10)
    key = certificate.with_suffix(".key")
    public = public_hex(load_key(key)[0])
    assert run(pfm, ["verify", str(certificate), str(out), "--public_key", public]) == 0


@pytest.mark.slow
def test_retraining_keeps_what_a_frozen_trunk_computes(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npz = write_npz(tmp_path / "colours.npz", train=160, test=120)
    arguments = train_arguments(npz, tmp_path, "--eval_every", "0", "--save_every", "0", "--tune", "lora")
    options = ["--prompt_layer", "1", "--epochs", "4", "--lr", "0.005", "--batch_size", "16"]
    assert run(pfm, [*arguments, *options]) == 0
    full = load_checkpoint(tmp_path / "colours_seed_42_4.pt")
    data = load_data(DataConfig(dataset=str(npz)), ImageStorage(8))
    made, report = retrain(full, data, ["2"], CPU, say=lambda _: None)
    assert report.cache_trunk == "host"
    for where in ("off", "disk"):
        monkeypatch.setattr(retraining, "_cache_for", lambda *_, where=where: where)
        other, _ = retrain(full, data, ["2"], CPU, say=lambda _: None)
        assert all(torch.equal(made.tensors[name], tensor) for name, tensor in other.tensors.items())
