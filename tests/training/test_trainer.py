"""Training: what a step computes, what a run leaves behind, and that it repeats."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from making.batches import IMAGES, LABELS, PREPROCESS, make_loader
from making.logs import log_records
from making.models import tiny_model
from pfm.backbones.config import BackboneConfig
from pfm.backbones.family import PRESETS
from pfm.data.config import AugmentConfig, DataConfig
from pfm.device import DeviceConfig, Processes, resolve_device
from pfm.errors import ConfigError, DeviceError, TrainingError
from pfm.evaluation.config import EvalConfig
from pfm.model.checkpoint import load_checkpoint
from pfm.model.config import LoraSettings, ModelConfig, StartConfig
from pfm.model.draws import branch_subsets
from pfm.model.targets import TARGETS
from pfm.seeds import make_generator
from pfm.training.config import ObjectiveConfig, RunConfig, TrainConfig
from pfm.training.learner import Learner
from pfm.training.objective import Objective
from pfm.training.optim import build_optimizer, learning_rate
from pfm.training.run import train
from pfm.training.shares import draw_share, epoch_order
from pfm.training.step import training_step

CPU = torch.device("cpu")


def run_config(dataset: Path, folder: Path, **changes: Any) -> RunConfig:
    settings = {"epochs": 2, "lr": 0.01, "batch_size": 16, "save_dir": str(folder), **changes.pop("train", {})}
    return RunConfig(
        data=DataConfig(dataset=str(dataset)),
        backbone=BackboneConfig(model_name="scratch:tiny"),
        model=ModelConfig(**changes.pop("model", {})),
        lora=LoraSettings(),
        train=TrainConfig(**settings),
        augment=AugmentConfig(**changes.pop("augment", {})),
        evaluation=EvalConfig(),
        device=DeviceConfig(cpu=True),
    )


def silent(_: str) -> None:
    pass


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own() -> None:
    first, second = epoch_order(50, 1, 0), epoch_order(50, 1, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert not torch.equal(first, second)
    assert torch.equal(first, epoch_order(50, 1, 0))
    assert not torch.equal(first, epoch_order(50, 2, 0))


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_processes_share_a_batch_and_its_draw(count: int) -> None:
    index, labels = torch.arange(100, 100 + count), torch.arange(count) % 4
    whole, *parts = (
        draw_share(index, labels, 4, key=(1, 2, 3), processes=Processes(device=CPU, rank=rank, world_size=size))
        for rank, size in ((0, 1), (0, 3), (1, 3), (2, 3))
    )
    assert len({len(part.index) for part in parts}) == 1
    assert sum(float(part.mean_shares.sum()) for part in parts) == pytest.approx(1)
    seen = {}
    for part in parts:
        for i, weight, mixed, wrong in zip(part.index.tolist(), part.mean_shares, part.mixed, part.wrong, strict=True):
            if weight > 0:
                assert i not in seen
                seen[i] = (mixed.tolist(), wrong.tolist())
    alone = {
        i: (m, w) for i, m, w in zip(whole.index.tolist(), whole.mixed.tolist(), whole.wrong.tolist(), strict=True)
    }
    assert seen == alone


@pytest.mark.parametrize("wrong_target", ["uniform", "others"])
def test_a_step_is_cross_entropy_plus_kl_over_the_two_draws(wrong_target: str) -> None:
    model = tiny_model(readout="cls", wrong_target=wrong_target).train()
    reference = tiny_model(readout="cls").train()
    (batch,) = make_loader(AugmentConfig()).batches([((1, 0, 0), torch.arange(6))])
    mixed, wrong = branch_subsets(LABELS, 4, make_generator(1, 0, 0, "draw"))
    assert torch.equal(batch.share.mixed, mixed)
    assert torch.equal(batch.share.wrong, wrong)
    accelerator = Accelerator(cpu=True)
    optimizer = accelerator.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.1))
    numbers = training_step(model, batch, Objective(model, ObjectiveConfig()), optimizer, accelerator)

    inputs = PREPROCESS(IMAGES)
    with_own, without_own = reference.logits(inputs, mixed), reference.logits(inputs, wrong)
    present = torch.nn.functional.cross_entropy(with_own, LABELS)
    absent = TARGETS.get(wrong_target).absent_loss(with_own, without_own, LABELS).mean()
    (present + absent).backward()
    assert float(numbers["present"]) == pytest.approx(present.item(), abs=1e-5)
    assert float(numbers["absent"]) == pytest.approx(absent.item(), abs=1e-5)
    assert float(numbers["loss"]) == pytest.approx((present + absent).item(), abs=1e-5)
    for name, tensor in reference.named_parameters():
        if tensor.grad is not None:
            updated = dict(model.named_parameters())[name]
            torch.testing.assert_close(updated, tensor - 0.1 * tensor.grad, atol=1e-5, rtol=0)


def test_the_learning_rate_is_constant_unless_asked() -> None:
    assert {learning_rate(step, 10, TrainConfig()) for step in range(10)} == {1e-3}
    cosine = TrainConfig(lr=1.0, schedule="cosine", warmup=0.2)
    rates = [learning_rate(step, 10, cosine) for step in range(10)]
    assert rates[:2] == [0.5, 1.0]
    assert rates[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])


def test_the_optimizer_holds_every_trained_tensor_once_and_decays_matrices_only() -> None:
    model = tiny_model()
    groups = build_optimizer(model, TrainConfig(optimizer="adamw", weight_decay=0.1)).param_groups
    held = [tensor for group in groups for tensor in group["params"]]
    assert len(held) == len({id(tensor) for tensor in held}) == len(model.trained_tensors())
    decayed = {id(tensor) for group in groups if group["weight_decay"] for tensor in group["params"]}
    names = {name for name, tensor in model.named_parameters() if id(tensor) in decayed}
    assert "bank.prompts" not in names
    assert "classifier.bias" not in names
    assert "classifier.weight" in names


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("start", "asked", "expected"), [("common", 0.0, 10.0), ("seed", 0.0, 1.0), ("common", 3.0, 3.0)]
)
def test_prompts_have_the_rate_that_their_start_needs(
    npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str, asked: float, expected: float
) -> None:
    seen: list[dict[str, float]] = []

    def set_rate(self: Learner, total_steps: int, original: Any = Learner.set_rate) -> None:
        original(self, total_steps)
        own = id(self.model.bank.prompts)
        groups = self.optimizer.param_groups
        seen.append({"prompts" if id(group["params"][0]) == own else "rest": group["lr"] for group in groups})

    monkeypatch.setattr(Learner, "set_rate", set_rate)
    config = run_config(npz, tmp_path, train={"epochs": 1, "lr": 0.001, "eval_every": 0})
    train(dataclasses.replace(config, start=StartConfig(prompt_start=start, prompt_lr=asked)), CPU, silent)
    assert seen[0] == {"rest": 0.001, "prompts": pytest.approx(0.001 * expected)}


@pytest.mark.usefixtures("preset")
def test_a_run_learns_and_leaves_the_papers_files(npz: Path, tmp_path: Path) -> None:
    result = train(run_config(npz, tmp_path / "out", train={"epochs": 12}), CPU, silent)
    assert result.modes is not None
    assert result.modes["full_bank"] > 0.9
    names = {path.name for path in (tmp_path / "out").iterdir()}
    stem = "colours_seed_42"
    assert names == {f"{stem}_{e}.pt" for e in range(1, 13)} | {
        f"{stem}_accuracies.json", f"{stem}_log.jsonl", f"{stem}_run.json",
    }  # fmt: skip
    accuracies = json.loads((tmp_path / "out" / f"{stem}_accuracies.json").read_text())
    assert {"full_bank", "infer_best", "class_0", "none"} <= set(accuracies)
    assert all(len(values) == 12 for values in accuracies.values())
    assert accuracies["full_bank"][-1] == result.modes["full_bank"]
    records = log_records(tmp_path / "out" / f"{stem}_log.jsonl")
    assert next(r["event"] for r in records) == "start"
    assert {r["event"] for r in records} == {"start", "step", "epoch", "end"}
    losses = [r["loss"] for r in records if r["event"] == "step"]
    assert losses[-1] < losses[0]


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("readout", ["cls", "prompt"])
def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(npz: Path, tmp_path: Path, readout: str) -> None:
    def tensors(name: str, seed: int) -> dict[str, torch.Tensor]:
        config = run_config(npz, tmp_path / name, train={"seed": seed, "eval_every": 0}, model={"readout": readout})
        return load_checkpoint(train(config, CPU, silent).checkpoint).tensors

    first, second, other = tensors("a", 1), tensors("b", 1), tensors("c", 2)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["bank.prompts"], other["bank.prompts"])


@pytest.mark.usefixtures("preset")
def test_lora_training_leaves_the_backbone_frozen(npz: Path, tmp_path: Path) -> None:
    config = run_config(npz, tmp_path, model={"tune": "lora", "readout": "prompt", "wrong_target": "none"})
    checkpoint = load_checkpoint(train(config, CPU, silent).checkpoint)
    assert checkpoint.frozen_sha256
    assert not any("fc1" in name for name in checkpoint.tensors)
    checkpoint.build_model()  # the frozen weights are made again and their fingerprint is right


@pytest.mark.usefixtures("preset")
def test_epochs_that_were_not_evaluated_are_null(npz: Path, tmp_path: Path) -> None:
    train(run_config(npz, tmp_path, train={"epochs": 5, "eval_every": 2}), CPU, silent)
    accuracies = json.loads((tmp_path / "colours_seed_42_accuracies.json").read_text())
    assert [value is None for value in accuracies["full_bank"]] == [True, False, True, False, False]


@pytest.mark.usefixtures("preset")
def test_a_loss_that_is_no_number_stops_the_run_and_says_where(npz: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"at step \d+ .*learning rate 1e\+30.*nothing was saved yet"):
        train(run_config(npz, tmp_path, train={"lr": 1e30, "log_every": 1}), CPU, silent)
    assert not list(tmp_path.glob("*_seed_42_*.pt"))


@pytest.mark.usefixtures("preset")
def test_bf16_autocast_trains(npz: Path, tmp_path: Path) -> None:
    config = run_config(npz, tmp_path, train={"epochs": 8})
    config = dataclasses.replace(config, device=DeviceConfig(cpu=True, mixed_precision="bf16"))
    result = train(config, CPU, silent)
    assert result.modes is not None
    assert result.modes["full_bank"] > 0.8


@pytest.mark.usefixtures("preset")
def test_augmentation_changes_what_is_seen_and_repeats_with_the_seed(npz: Path, tmp_path: Path) -> None:
    def loss(name: str, **augment: Any) -> list[float]:
        train(run_config(npz, tmp_path / name, train={"eval_every": 0}, augment=augment), CPU, silent)
        records = log_records(tmp_path / name / "colours_seed_42_log.jsonl")
        return [record["loss"] for record in records if record["event"] == "step"]

    shifted = loss("a", shift=2, hflip=True)
    assert shifted == loss("b", shift=2, hflip=True)
    assert shifted != loss("c")


def test_a_gpu_that_is_not_there_is_refused_only_when_it_was_asked_for() -> None:
    assert resolve_device(DeviceConfig(gpu_id=0), gpu_was_asked_for=False).type == "cpu"
    with pytest.raises(DeviceError, match="--gpu_id 3: this machine has no GPU"):
        resolve_device(DeviceConfig(gpu_id=3), gpu_was_asked_for=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        resolve_device(DeviceConfig(gpu_id=0, cpu=True), gpu_was_asked_for=True)


def test_a_gpu_number_under_a_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="single-process"):
        resolve_device(DeviceConfig(gpu_id=0), gpu_was_asked_for=True)


def test_the_preset_of_these_tests_is_theirs_alone() -> None:
    assert "tiny" not in PRESETS
