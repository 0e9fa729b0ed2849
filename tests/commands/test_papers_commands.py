"""The commands of the paper's tool as its README has them, with `pfm` in place of its scripts."""

import json
from pathlib import Path

import pytest
import torch

from making.commands import Refuse
from making.images import write_npz
from pfm.cli import pfm, run


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


@pytest.mark.usefixtures("preset")
def test_the_papers_train_and_eval_run_as_they_stand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write_npz(tmp_path / "colours.npz"), tmp_path / "checkpoints"
    common = ["--dataset", str(data), "--data_type", "image", "--model_name", "scratch:tiny", "--batch_size", "32",
              "--seed", "42", "--gpu_id", "0", "--save_dir", str(out)]  # fmt: skip
    assert run(pfm, ["train", *common, "--epochs", "2", "--lr", "0.001"]) == 0
    said = capsys.readouterr().out
    assert said.count("note: --gpu_id 0: this machine has no GPU; running on the CPU") == 1
    assert run(pfm, ["eval", *common, "--ckpt", str(out / "colours_seed_42_2.pt")]) == 0
    assert capsys.readouterr().out.count("running on the CPU") == 1
    accuracies = json.loads((out / "colours_seed_42_accuracies.json").read_text())
    by_size = json.loads((out / "colours_seed_42_inference_accuracies.json").read_text())
    assert len(accuracies["full_bank"]) == 2
    assert set(by_size) == {"1", "2", "3"}
    shares = [share for epochs in accuracies.values() for share in epochs]
    whole = json.loads((out / "colours_seed_42_evaluation.json").read_text())
    shares += whole["modes"].values()
    for share in shares:  # of 22 test samples, or of those of one class: no number is rounded through float32
        assert any(share == hits / count for count in range(1, 23) for hits in range(count + 1)), share


@pytest.mark.usefixtures("preset")
def test_the_evaluation_batch_has_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pfm.evaluation import evaluator

    data = write_npz(tmp_path / "colours.npz")
    train = ["train", "--dataset", str(data), "--model_name", "scratch:tiny", "--epochs", "1", "--eval_every", "0"]
    assert run(pfm, [*train, "--save_dir", str(tmp_path), "--cpu"]) == 0
    seen: list[int] = []
    monkeypatch.setattr(evaluator, "Evaluator", lambda *rest, batch_size, **_: seen.append(batch_size) or interrupted())

    def interrupted() -> None:
        raise KeyboardInterrupt

    evaluate = ["eval", "--ckpt", str(tmp_path / "colours_seed_42_1.pt"), "--cpu", "--save_dir", str(tmp_path)]
    for options in ("", "--batch_size 5", "--eval_batch_size 6", "--batch_size 7 --eval_batch_size 7"):
        assert run(pfm, [*evaluate, *options.split()]) == 130
    assert seen == [128, 5, 6, 7]
    refuse = Refuse(capsys)
    assert "are the same option; give one" in refuse(*evaluate, "--batch_size", "7", "--eval_batch_size", "8")


def test_another_gpu_than_0_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, refuse = write_npz(tmp_path / "colours.npz"), Refuse(capsys)
    train = ["train", "--dataset", str(data), "--model_name", "scratch:vit_digits", "--save_dir", str(tmp_path / "out")]
    assert "--gpu_id 1: this machine has no GPU" in refuse(*train, "--gpu_id", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "--gpu_id 2: this machine has GPUs 0 to 1" in refuse(*train, "--gpu_id", "2")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("preset")
def test_a_checkpoint_that_does_not_say_its_data_is_not_evaluated_on_a_guess(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from making.checkpoints import image_checkpoint
    from pfm.model.checkpoint import save_checkpoint

    save_checkpoint(tmp_path / "model.pt", image_checkpoint())
    assert "name the data with --dataset" in Refuse(capsys)("eval", "--ckpt", tmp_path / "model.pt", "--cpu")
