"""A training run on a GPU beside the same run on the CPU: losses, rows, resuming, rates, memory."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from making.commands import Refuse
from making.logs import log_records
from pfm.cli import pfm, run
from pfm.model.checkpoint import Checkpoint, load_checkpoint
from pfm.training import run as training
from pfm.training.room import memory_of
from pfm.training.throughput import peak_tflops

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
VARIANTS = {
    "paper": [],
    "lora": ["--tune", "lora", "--prompt_layer", "1", "--lora_dropout", "0.1"],
    "prompt": ["--readout", "prompt", "--wrong_target", "others", "--max_grad_norm", "1"],
    "parts": ["--gradient_accumulation_steps", "2", "--batch_size", "16", "--ema", "0.9", "--gradient_checkpointing"],
}


def trained(npz: Path, folder: Path, *more: str) -> list[float]:
    """The losses of a run, step by step."""
    command = ["train", "--dataset", str(npz), "--model_name", "scratch:tiny", "--epochs", "2", "--lr", "0.003",
               "--log_every", "1", "--save_dir", str(folder), *more]  # fmt: skip
    assert run(pfm, command) == 0
    return losses(folder)


def losses(folder: Path) -> list[float]:
    records = log_records(folder / "colours_seed_42_log.jsonl")
    return [record["loss"] for record in records if record["event"] == "step"]


def saved(folder: Path, epoch: int = 2) -> Checkpoint:
    return load_checkpoint(folder / f"colours_seed_42_{epoch}.pt")


def summary(folder: Path) -> dict:  # type: ignore[type-arg]  # as JSON has it
    return json.loads((folder / "colours_seed_42_run.json").read_text())


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("name", VARIANTS)
def test_losses_in_float32_are_those_of_the_cpu(device: str, npz: Path, tmp_path: Path, name: str) -> None:
    there = trained(npz, tmp_path / "there", *VARIANTS[name])
    here = trained(npz, tmp_path / "here", *VARIANTS[name], "--cpu")
    assert summary(tmp_path / "there")["device"].startswith(device)
    assert len(there) == 4
    assert there[0] == pytest.approx(here[0], rel=1e-5)  # sums in another order; TF32 would be at 1e-3
    assert there == pytest.approx(here, rel=2e-3)  # Adam makes whole steps of gradients that are all rounding
    assert not torch.backends.cudnn.allow_tf32 or device == "cpu"
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["paper", "lora"])
def test_losses_in_half_precision_are_near(device: str, npz: Path, tmp_path: Path, precision: str, name: str) -> None:
    if device == "cpu" and precision == "fp16":
        pytest.skip("fp16 is refused on the CPU")
    there = trained(npz, tmp_path / "there", *VARIANTS[name], "--mixed_precision", precision)
    here = trained(npz, tmp_path / "here", *VARIANTS[name], "--cpu")
    # numbers of 8 (bf16) or 11 bits; then steps that follow from them, of which the scaler of fp16 may leave out some
    assert there[0] == pytest.approx(here[0], rel={"bf16": 0.03, "fp16": 0.01}[precision])
    assert there == pytest.approx(here, rel={"bf16": 0.05, "fp16": 0.1}[precision])
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path / "there").tensors.values())


@pytest.mark.usefixtures("preset")
def test_a_short_run_learns_and_forgets(device: str, npz: Path, tmp_path: Path) -> None:
    found = trained(npz, tmp_path, "--epochs", "15", "--batch_size", "8", "--lr", "0.005", "--eval_every", "15")
    accuracies = json.loads((tmp_path / "colours_seed_42_accuracies.json").read_text())
    assert sum(found[-30:]) < 0.7 * sum(found[:30])
    assert accuracies["full_bank"][-1] > 0.9
    assert accuracies["all_wrong"][-1] < 0.7  # a class whose prompt is not there is guessed


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_run_that_was_stopped_goes_on_with_the_same_numbers(
    device: str, npz: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ["--mixed_precision", precision, "--epochs", "3", "--shift", "1", "--tune", "lora"]
    whole = trained(npz, tmp_path / "whole", *more)
    step, taken = training.training_step, 0

    def stopped(*given: object, **named: object) -> object:
        nonlocal taken
        taken += 1
        if taken == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*given, **named)  # type: ignore[arg-type]  # handed on

    command = ["train", "--dataset", str(npz), "--model_name", "scratch:tiny", "--lr", "0.003", "--log_every", "1",
               "--save_dir", str(tmp_path / "parts"), *more]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(training, "training_step", stopped)
        assert run(pfm, command) == 128 + signal.SIGTERM
    assert run(pfm, [*command, "--resume", "auto"]) == 0
    # sums in no fixed order (atomic additions) are the only thing that two runs on a GPU may differ in
    assert losses(tmp_path / "parts") == pytest.approx(whole, rel=1e-4 if precision == "no" else 1e-2)
    first, second = saved(tmp_path / "whole", 3), saved(tmp_path / "parts", 3)
    assert first.step == second.step == 6
    for name, tensor in first.tensors.items():
        assert torch.allclose(tensor, second.tensors[name], atol=3e-3 if precision == "no" else 0.02), name


@pytest.mark.usefixtures("preset")
def test_where_data_and_tokens_are_kept_changes_no_number(device: str, npz: Path, tmp_path: Path) -> None:
    lora = ["--tune", "lora", "--prompt_layer", "1", "--epochs", "1"]
    places = [["--data_on", where, "--num_workers", "1"] for where in ("device", "host", "disk")]
    places += [["--cache_trunk", where] for where in ("device", "host", "disk")]
    found = [trained(npz, tmp_path / str(n), *lora, *place) for n, place in enumerate(places)]
    for place, numbers in zip(places, found, strict=True):
        assert numbers == pytest.approx(found[0], rel=1e-4), place  # tokens of larger batches, rounded otherwise


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("start", ["data", "seed", "secret", "common"])
def test_rows_start_with_the_same_bytes_on_every_device(device: str, npz: Path, tmp_path: Path, start: str) -> None:
    more = ["--prompt_start", start, "--lr", "0", "--epochs", "1", "--eval_every", "0"]
    more += ["--init_key", str(tmp_path / "keys")] if start == "secret" else []
    trained(npz, tmp_path / "there", *more)
    trained(npz, tmp_path / "here", *more, "--cpu")
    there, here = (saved(tmp_path / name, 1).tensors for name in ("there", "here"))
    assert all(torch.equal(there[name], here[name]) for name in here)


@pytest.mark.usefixtures("preset")
def test_a_run_reports_its_rates(device: str, npz: Path, tmp_path: Path) -> None:
    trained(npz, tmp_path, "--mixed_precision", "bf16")
    for epoch in summary(tmp_path)["epochs"]:
        assert epoch["peak_memory_mib"] > 0
        assert epoch["samples_per_s"] > 0
        assert 0 <= epoch["data_wait"] <= 1
        if peak_tflops(torch.device(device)) is not None:  # a GPU of the table
            assert 0 <= epoch["mfu"] < 1
            assert epoch["tflops_per_device"] > 0


def test_a_gpu_of_the_table_has_its_peak(device: str) -> None:
    if device == "cpu":
        assert peak_tflops(torch.device("cpu")) is None
        return
    name = torch.cuda.get_device_name(0)
    if "H100" not in name:
        pytest.skip(f"{name} is not an H100")
    assert peak_tflops(torch.device("cuda", 0)) in (756, 835, 989)


@pytest.mark.usefixtures("preset")
def test_a_run_that_does_not_fit_is_refused_with_the_memory_that_is_there(
    device: str, npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = memory_of(torch.device(device))
    assert there > 2**30
    if device == "cuda":
        assert there == torch.cuda.mem_get_info()[1]
    refuse = Refuse(capsys)
    said = refuse("train", "--dataset", npz, "--model_name", "scratch:tiny", "--prompt_tokens", "900000000",
                  "--save_dir", tmp_path / "a")  # fmt: skip
    assert "--prompt_tokens 900000000: the run would take about" in said
    assert ("the GPU has" if device == "cuda" else "this machine has") in said


@pytest.mark.usefixtures("preset")
def test_a_batch_that_does_not_fit_is_computed_in_parts(
    device: str, npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(npz, tmp_path / "whole")
    if device == "cuda":
        # what torch may take of the GPU from here on; the context and what is cached count
        tried = training.prepare_memory

        def short(*given: object) -> object:
            monkeypatch.setattr("pfm.training.memory.try_batch", failing)
            return tried(*given)  # type: ignore[arg-type]  # handed on

        def failing(model: object, stored: object, processes: object, decoys: int, size: int) -> None:
            if size > 8:
                torch.empty(2**45, dtype=torch.uint8, device=device)  # a real out-of-memory, 32 TiB

        monkeypatch.setattr(training, "prepare_memory", short)
    parts = trained(npz, tmp_path / "parts", "--auto_batch_size")
    assert parts == pytest.approx(whole, rel=2e-3)


@pytest.mark.slow(seconds=60)
@pytest.mark.usefixtures("preset")
def test_a_compiled_run_gives_the_numbers_of_the_eager_one(device: str, npz: Path, tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("gcc", "clang", "cc")):
        pytest.skip("there is no C compiler, which Triton needs")
    eager = trained(npz, tmp_path / "eager", "--eval_every", "0")
    compiled = trained(npz, tmp_path / "compiled", "--eval_every", "0", "--compile")
    assert compiled == pytest.approx(eager, rel=2e-3)
