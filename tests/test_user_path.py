"""What a user does, through the command line, from data to a served bundle without a class."""

import dataclasses
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from making.images import write_npz
from pfm.cli import pfm, run
from pfm_bench.measuring import ceilings
from pfm_export.serving.session import PromptSession

CLASSES = "red,green,blue,grey"


def call(*arguments: object) -> None:
    assert run(pfm, [str(argument) for argument in arguments]) == 0


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize("readout", ["cls", pytest.param("prompt", marks=pytest.mark.slow)])
def test_train_eval_forget_export_serve_erase_bench(
    readout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_npz(tmp_path / "colours.npz", train=128)
    target = ["--wrong_target", "none"] if readout == "prompt" else []
    call("train", "--dataset", data, "--class_names", CLASSES, "--model_name", "scratch:tiny", "--epochs", 15,
         "--batch_size", 16, "--lr", 0.01, "--readout", readout, *target, "--eval_every", 0,
         "--save_dir", tmp_path / "run", "--cpu")  # fmt: skip
    checkpoint = tmp_path / "run" / "colours_seed_42_15.pt"
    said = capsys.readouterr().out
    assert "red" in said
    assert f"pfm eval --ckpt {checkpoint}" in said

    call("eval", "--ckpt", checkpoint, "--save_dir", tmp_path / "eval", "--cpu")
    table = json.loads((tmp_path / "eval" / "colours_seed_42_inference_accuracies.json").read_text())
    assert set(table) == {"1", "2", "3"}
    assert set(table["1"]) == {"forget_mean", "forget_std", "retain_mean", "retain_std"}
    assert table["1"]["retain_mean"] > 0.9
    assert table["1"]["forget_mean"] < 0.5
    picture = (tmp_path / "eval" / "colours_seed_42_forgetting.png").read_bytes()
    assert picture.startswith(b"\x89PNG")

    call("eval", "--ckpt", checkpoint, "--suspend", "blue", "--save_dir", tmp_path / "eval", "--cpu")
    assert "suspended (reversible, nothing erased): blue" in capsys.readouterr().out

    call("forget", "--ckpt", checkpoint, "--classes", "blue", "--out", tmp_path / "less.pt")
    assert "shared weights" in capsys.readouterr().out
    call("eval", "--ckpt", tmp_path / "less.pt", "--save_dir", tmp_path / "eval_less", "--cpu")

    bundles = {"full": checkpoint}
    if readout == "prompt":  # slow, and so is another export
        bundles["less"] = tmp_path / "less.pt"
    for bundle, source in bundles.items():
        call("export", "onnx", "--ckpt", source, "--out", tmp_path / bundle)
    images = list(np.load(data)["test_images"])
    assert "blue" in PromptSession(tmp_path / "full").predict_images(images).labels
    call("forget", "--in_place", tmp_path / "full", "--classes", "blue", "--reason", "request 7")
    for bundle in bundles:
        session = PromptSession(tmp_path / bundle, device="cpu")
        assert session.classes.names == ("red", "green", "grey")
        assert "blue" not in session.predict_images(images).labels
    first, *rest = (PromptSession(tmp_path / b).predict_images(images).probabilities for b in bundles)
    for second in rest:
        np.testing.assert_allclose(first, second, atol=1e-5)  # erased before the export or after it: the same answers

    # products that fill a processor take it for seconds
    monkeypatch.setattr(ceilings, "matmul_ceiling", functools.partial(ceilings.matmul_ceiling, sizes=(128,)))
    monkeypatch.setattr(ceilings, "INT8_SIZES", (64,))
    call("bench", "--bundle", tmp_path / "full", "--batch_sizes", "1,2", "--rounds", 5, "--out", tmp_path / "bench")
    document = json.loads((tmp_path / "bench" / "latency.json").read_text())
    assert {case["target"] for case in document["cases"]} == {"torch", "ort-cpu"}
    assert all(len(case["latency_ms"]) == 5 for case in document["cases"])


@pytest.mark.slow
def test_a_vit_tiny_in_hugging_face_layout_at_224_pixels_trains_with_lora_and_serves(tmp_path: Path) -> None:
    """What a user does with pretrained weights; these are random, since tests download nothing."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    shape = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    ViTModel(ViTConfig(**shape)).save_pretrained(tmp_path / "vit")  # type: ignore[arg-type]
    data = write_npz(tmp_path / "colours.npz", train=8, test=8, size=28)
    call("train", "--dataset", data, "--model_name", tmp_path / "vit", "--epochs", 1, "--batch_size", 4,
         "--eval_every", 0, "--save_dir", tmp_path / "run", "--cpu")  # fmt: skip
    checkpoint = tmp_path / "run" / "colours_seed_42_1.pt"
    assert checkpoint.stat().st_size < 2 * 2**20  # adapters, prompts and classifier; not the backbone
    call("eval", "--ckpt", checkpoint, "--max_subsets", 1, "--save_dir", tmp_path / "run", "--cpu")
    call("export", "onnx", "--ckpt", checkpoint, "--out", tmp_path / "bundle")
    session = PromptSession(tmp_path / "bundle", device="cpu")
    images = list(np.load(data)["test_images"])
    assert len(session.predict_images(images, without=["2"]).labels) == 8
    session.erase(["2"])
    assert "2" not in session.predict_images(images).labels


@pytest.mark.slow
def test_a_file_of_the_papers_tool_is_evaluated_and_exported(tmp_path: Path) -> None:
    from making.paper_tool import paper_file, paper_logits

    path, vit, state = paper_file(tmp_path / "bloodmnist_seed_42_10.pt", num_classes=4)
    data = write_npz(tmp_path / "colours.npz", size=28)
    call("eval", "--ckpt", path, "--dataset", data, "--save_dir", tmp_path / "eval", "--cpu")
    assert (tmp_path / "eval" / "colours_seed_42_inference_accuracies.json").exists()
    call("export", "onnx", "--ckpt", path, "--out", tmp_path / "bundle")
    session = PromptSession(tmp_path / "bundle", device="cpu")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = paper_logits(vit, state, images, [0, 1, 2, 3])
    expected = logits.softmax(dim=1).numpy()
    np.testing.assert_allclose(session.predict(images.numpy()).probabilities, expected, atol=1e-4)


@pytest.mark.slow(seconds=90)
def test_the_demo_shows_what_the_readme_promises(tmp_path: Path) -> None:
    import subprocess
    import sys

    command = [sys.executable, "-c", "from pfm.cli import main; main()", "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((tmp_path / "demo" / "demo.json").read_text())
    for name, result in summary["results"].items():
        assert result["full_bank"] >= 0.95
        assert result["retain_k1"] >= 0.95
        assert result["forget_k1"] <= (0.10 if name == "cls" else 0.0)
        assert result["times_erased_class_answered"] == 0
        assert result["onnx_worst_difference"] <= 1e-4
    for picture in ("forgetting.png", "latency.png", "answers.png"):
        assert (tmp_path / "demo" / picture).stat().st_size > 5000


@pytest.mark.slow
def test_the_demo_tells_the_same_story_of_sounds(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pfm_bench.demo import sounds as task

    monkeypatch.setattr(task, "SOUND_RECIPE", dataclasses.replace(task.SOUND_RECIPE, epochs=2, batch_size=8))
    out = tmp_path / "demo"
    sounds = ["--data_type", "audio", "--dataset", f"audiofolder:{tones}"]
    assert run(pfm, ["demo", *sounds, "--forget", "nobody", "--out", str(out)]) == 2
    assert "no class 'nobody'" in capsys.readouterr().err
    assert run(pfm, ["demo", "--data_type", "audio", "--out", str(out)]) == 2
    assert "give --dataset audiofolder:PATH" in capsys.readouterr().err
    last = sorted(path.name for path in (tones / "test").iterdir())[-1]
    call("demo", *sounds, "--out", out)
    summary = json.loads((out / "demo.json").read_text())
    assert (summary["data"], summary["forgotten"]) == (tones.name, last)
    assert summary["command"] == "pfm demo --data_type audio --dataset audiofolder:PATH"
    for readout, result in summary["results"].items():
        assert result["times_erased_class_answered"] == 0
        # an integer of the exact readout that rounds the other way moves a score by one weight
        assert result["onnx_worst_difference"] <= (1e-3 if readout == "ridge" else 1e-4), readout
    for picture in ("forgetting.png", "latency.png", "answers.png"):
        assert (out / picture).stat().st_size > 5000
