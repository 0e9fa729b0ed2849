"""`unknown` below a threshold: chosen on held-out samples, kept in the checkpoint, obeyed by the server."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from making.commands import train_arguments
from making.images import coloured_images, write_npz
from making.models import NAMES, tiny_model, tiny_spec
from pfm.classes import ClassList
from pfm.cli import pfm, run
from pfm.data.images import ImagePreprocess
from pfm.data.splits import ClassificationData, Split, hold_out_for_threshold
from pfm.errors import ConfigError, DataError
from pfm.model.abstention import choose_threshold
from pfm.model.checkpoint import RunState, load_checkpoint, save_checkpoint, snapshot
from pfm.model.config import ModelConfig
from pfm.model.draws import shared_set
from pfm_export.graph.export import export_bundle
from pfm_export.serving.session import PromptSession

CPU = torch.device("cpu")
PREPROCESS = ImagePreprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))


def numbered(count: int) -> ClassificationData:
    """Every image another one, so that it can be told which went where."""
    labels = torch.arange(count) % 4
    inputs = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    split = Split(inputs, labels)
    return ClassificationData("numbered", ClassList.from_names(list(NAMES)), train=split, test=split)


def coloured(count: int) -> Split:
    images, labels = coloured_images(count)
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[:, 0]).long())


def test_a_tenth_of_each_class_is_held_out_and_none_of_it_trained_on() -> None:
    data = hold_out_for_threshold(numbered(200), 0.05)
    assert data.val is not None
    assert torch.bincount(data.val.labels).tolist() == [5, 5, 5, 5]
    both = [split.inputs[:, 0, 0, 0].tolist() for split in (data.train, data.val)]
    assert sorted(both[0] + both[1]) == list(range(200))
    assert torch.equal(hold_out_for_threshold(numbered(200), 0.2).val.inputs, data.val.inputs)  # type: ignore[union-attr]
    assert "held out" in data.notes[-1]


def test_nothing_is_held_out_where_nothing_is_chosen_or_a_validation_split_is_there() -> None:
    data = numbered(200)
    assert hold_out_for_threshold(data, 0.0) is data
    whole = dataclasses.replace(data, val=data.test)
    assert hold_out_for_threshold(whole, 0.05) is whole


def test_too_few_samples_to_hold_any_out_are_refused() -> None:
    with pytest.raises(DataError, match="held-out samples"):
        hold_out_for_threshold(numbered(20), 0.05)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_share_of_answers_asked_for_is_given_up(share: float) -> None:
    model, split = tiny_model(), coloured(200)
    assert not model.can_abstain
    model.unknown_below = choose_threshold(model, split, PREPROCESS, share, device=CPU, batch_size=64)
    with torch.no_grad():
        logits = model.logits(PREPROCESS(split.inputs), shared_set([0, 1, 2, 3], 200, CPU))
    answers = model.predict(logits)
    assert float((answers == -1).double().mean()) == pytest.approx(share, abs=0.011)  # two samples of 200
    sure = answers >= 0
    assert torch.equal(answers[sure], logits.argmax(dim=1)[sure])
    assert logits.softmax(1).amax(1)[sure].min() >= logits.softmax(1).amax(1)[~sure].max()
    assert model.can_abstain


def test_with_a_threshold_nothing_active_is_still_unknown() -> None:
    model = tiny_model(readout="prompt")
    model.unknown_below = 0.6
    logits = torch.tensor([[1.0, 1.0, -torch.inf, -torch.inf], [5.0, 0, 0, 0], [-torch.inf] * 4])
    assert model.predict(logits).tolist() == [-1, 0, -1]


def test_a_share_that_leaves_no_answer_and_a_second_unknown_are_refused() -> None:
    with pytest.raises(ConfigError, match="gives up every answer"):
        ModelConfig(abstain=1.0)
    with pytest.raises(ConfigError, match="--wrong_target none has one"):
        ModelConfig(abstain=0.1, readout="prompt", wrong_target="none")


def test_the_server_says_unknown_where_the_model_does_and_the_threshold_outlives_an_erasure(tmp_path: Path) -> None:
    model, split = tiny_model(), coloured(60)
    threshold = choose_threshold(model, split, PREPROCESS, 0.5, device=CPU)
    state = snapshot(model, spec=tiny_spec(), preprocess=PREPROCESS, lora=None, state=RunState(unknown_below=threshold))
    save_checkpoint(tmp_path / "x.pt", state)
    back = load_checkpoint(tmp_path / "x.pt")
    export_bundle(back, tmp_path / "bundle")
    session = PromptSession(tmp_path / "bundle", device="cpu")
    assert session.manifest["unknown_below"] == threshold
    inputs = PREPROCESS(split.inputs)
    rebuilt = back.build_model()
    with torch.no_grad():
        answers = rebuilt.predict(rebuilt.logits(inputs, shared_set([0, 1, 2, 3], 60, CPU))).tolist()
    labels = session.predict(inputs.numpy()).labels
    assert labels == [NAMES[answer] if answer >= 0 else "unknown" for answer in answers]
    assert 20 <= labels.count("unknown") <= 40
    session.erase(["blue"])
    prediction = session.predict(inputs.numpy())
    assert "blue" not in prediction.labels
    for label, row in zip(prediction.labels, prediction.probabilities, strict=True):
        assert (label == "unknown") == bool(row.max() < threshold)


def test_a_file_without_a_threshold_never_abstains(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", snapshot(tiny_model(), spec=tiny_spec(), preprocess=PREPROCESS, lora=None))
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    del content["unknown_below"]
    torch.save(content, tmp_path / "old.pt")
    state = load_checkpoint(tmp_path / "old.pt")
    assert not state.build_model().can_abstain
    export_bundle(state, tmp_path / "bundle")
    assert "unknown_below" not in json.loads((tmp_path / "bundle" / "manifest.json").read_text())
    labels = PromptSession(tmp_path / "bundle", device="cpu").predict(np.zeros((2, 3, 8, 8), np.float32)).labels
    assert set(labels) <= set(NAMES)


@pytest.mark.slow
def test_training_with_abstention_is_evaluated_and_served(
    preset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    npz = write_npz(tmp_path / "colours.npz", train=160)
    more = ["--abstain", "0.1", "--eval_every", "0", "--ema", "0.5", "--prompt_start", "seed"]
    assert run(pfm, train_arguments(npz, tmp_path, *more)) == 0
    ckpt = tmp_path / "colours_seed_42_2.pt"
    assert "16 training samples are held out" in capsys.readouterr().out
    threshold = load_checkpoint(ckpt).unknown_below
    assert 0.25 < threshold < 1
    assert run(pfm, ["eval", "--ckpt", str(ckpt), "--save_dir", str(tmp_path), "--cpu"]) == 0
    assert "answered `unknown`" in capsys.readouterr().out
    measured = json.loads((tmp_path / "colours_seed_42_evaluation.json").read_text())["unknown"]
    assert measured["class_removed"] >= measured["class_present"]
    assert run(pfm, ["export", "onnx", "--ckpt", str(ckpt), "--out", str(tmp_path / "bundle")]) == 0
    images, _ = coloured_images(20, seed=4)
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    names = [str(tmp_path / f"{number}.png") for number in range(20)]
    session = PromptSession(tmp_path / "bundle", device="cpu")
    labels = session.predict_images(names, without=["0"]).labels
    script = Path(__file__).parent.parent.parent / "examples" / "serve_onnxruntime.py"
    shown = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "bundle"), *names, "--without", "0"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == labels
    assert "unknown" in labels
