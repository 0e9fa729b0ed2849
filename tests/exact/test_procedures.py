"""How `--readout ridge` goes through the commands, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from making.checkpoints import image_checkpoint
from making.commands import Refuse
from making.exact import fit, image_data, only
from making.images import write_npz
from pfm.cli import pfm, run
from pfm.device import Processes
from pfm.errors import ConfigError
from pfm.exact.recipe import LARGEST, LARGEST_SUM, Projection, Recipe
from pfm.exact.solve import solve
from pfm.exact.sums import num_packed, sums_of
from pfm.forgetting import ledger
from pfm.model.checkpoint import load_checkpoint, save_checkpoint
from pfm.model.readouts.ridge import memory_of
from pfm.training.learning import learn_on


def test_train_eval_and_learn_on_the_command_line(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = ["train", "--dataset", str(npz), "--readout", "ridge", "--features", "raw", "--width", "40", "--cpu"]
    assert run(pfm, [*train, "--save_dir", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.pt")
    said = capsys.readouterr().out
    assert "personal data" in said
    assert load_checkpoint(path).exact["digest"] in said
    assert run(pfm, ["eval", "--ckpt", str(path), "--save_dir", str(tmp_path), "--cpu", "--exact_subsets"]) == 0
    assert "no row: answers nothing" in capsys.readouterr().out
    (measured,) = tmp_path.glob("*_evaluation.json")
    found = json.loads(measured.read_text())
    assert found["modes"]["full_bank"] == found["modes"]["infer_best"] > 0.9
    assert found["modes"]["none"] == found["modes"]["all_wrong"] == 0
    assert all(entry["forget_mean"] == 0 for entry in found["subsets"])
    more = write_npz(tmp_path / "more.npz", num_classes=5)
    assert run(pfm, ["learn", "--ckpt", str(path), "--dataset", str(more), "--cpu"]) == 0
    assert "new classes: 4" in capsys.readouterr().out


def test_samples_of_a_single_class_are_learned_or_refused_with_the_reason(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path / "part.pt", fit(image_data(), tmp_path / "run"))
    folder = tmp_path / "given" / "more"
    for split, count in (("train", 4), ("test", 1)):
        (folder / split / "orange").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (250, 130, number)).save(folder / split / "orange" / f"{number}.png")
    learn = ("learn", "--dataset", f"imagefolder:{folder}", "--cpu", "--ckpt")
    assert run(pfm, [*learn, str(tmp_path / "part.pt"), "--out", str(tmp_path / "learned.pt")]) == 0
    assert "added 4 samples; new classes: orange" in capsys.readouterr().out
    learned = load_checkpoint(tmp_path / "learned.pt")
    assert learned.classes.names == ("red", "green", "blue", "grey", "orange")
    assert memory_of(learned).counts[memory_of(learned).classes.index("orange")] == 4

    refuse = Refuse(capsys)
    save_checkpoint(tmp_path / "cls.pt", image_checkpoint())
    assert "trained step by step, its classes against each other" in refuse(*learn, tmp_path / "cls.pt")
    inside = refuse("learn", "--dataset", f"imagefolder:{folder.parent}", "--cpu", "--ckpt", tmp_path / "part.pt",
                    "--out", tmp_path / "other.pt")  # fmt: skip
    assert f"did you mean {folder}?" in inside  # its folders are splits, not a class of that name


def test_options_of_the_other_way_of_training_are_refused(
    npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse = Refuse(capsys)
    ridge = ("train", "--dataset", npz, "--save_dir", tmp_path, "--readout", "ridge", "--features", "raw")
    assert "--epochs, --lr: has no meaning" in refuse(*ridge, "--epochs", "10", "--lr", "0.001")
    assert "frozen" in refuse(*ridge, "--tune", "full")
    assert "leave --model_name out" in refuse(*ridge, "--model_name", "scratch:vit_mini")
    steps = ("train", "--dataset", npz, "--save_dir", tmp_path, "--model_name", "scratch:vit_mini")
    assert "--width: " in refuse(*steps, "--width", "64")
    assert "--memory: has no meaning" in refuse(*steps, "--memory", "features")


def test_a_penalty_that_is_too_small_to_solve_with_is_said_so() -> None:
    sums = np.ones(num_packed(16), np.int64)
    with pytest.raises(ConfigError, match="--alpha 1e-30 is too small"):
        solve([sums], [1], width=16, alpha=1e-30)


def test_numpys_integers_are_torchs_at_the_bounds() -> None:
    recipe = Recipe(features={}, size=37, width=29, alpha=1e-3)
    projection = Projection.draw(recipe, 5)
    assert recipe.bound * recipe.size + np.abs(projection.offset).max() <= LARGEST_SUM
    random = np.random.default_rng(0)
    rows = random.integers(-recipe.bound, recipe.bound + 1, (64, recipe.size)).astype(np.int16)
    sums = rows.astype(np.int64) @ projection.matrix.astype(np.int64) + projection.offset
    wanted = np.minimum(np.maximum(sums, 0) >> recipe.shift, LARGEST)
    assert np.array_equal(projection.project(rows, recipe)[:, :-1], wanted)


def test_the_solution_is_that_of_the_normal_equations() -> None:
    recipe = Recipe(features={}, size=12, width=40, alpha=1e-3)
    projection = Projection.draw(recipe, 5)
    random = np.random.default_rng(0)
    parts = [random.integers(-2000, 2000, (n, 12)).astype(np.int16) for n in (30, 50, 7)]
    projected = [projection.project(part, recipe).astype(np.float64) for part in parts]
    solution = solve([sums_of([p.astype(np.float32)], 40) for p in projected], [30, 50, 7], width=40, alpha=1e-3)
    weights = [87 / (3 * n) for n in (30, 50, 7)]
    products = sum(w * (p.T @ p) for w, p in zip(weights, projected, strict=True))
    targets = np.stack([10 * w * p.sum(axis=0) for w, p in zip(weights, projected, strict=True)], axis=1)
    found = np.linalg.solve(products + 1e-3 * np.trace(products) * np.eye(41), targets)
    np.testing.assert_allclose(solution.weight, found[:-1].T, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(solution.bias, found[-1] * 1024, rtol=1e-6)


def test_raw_pixels_are_at_a_fixed_offset_and_scale(tmp_path: Path) -> None:
    """Nothing of a sample is normalised by itself, whatever other families do: brightness stays."""
    made = memory_of(fit(image_data(), tmp_path)).rows
    assert made is not None
    levels = image_data().train.inputs.flatten(1).numpy().astype(np.int64)  # 8 x 8 pixels, a window each
    wanted = (levels - 128) * 16
    assert np.array_equal(np.unique(made.values, axis=0), np.unique(wanted, axis=0))


def test_rows_of_a_fit_do_not_depend_on_the_batch_of_evaluation(tmp_path: Path) -> None:
    made = fit(image_data(), tmp_path)
    model = made.build_model()
    inputs = made.preprocess(image_data().train.inputs)
    with torch.inference_mode():
        whole = model.trunk(inputs)
        assert torch.equal(whole, torch.cat([model.trunk(one) for one in inputs.split(7)]))


def test_forget_takes_out_classes_groups_and_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = image_data()
    full = fit(data, tmp_path)
    path = tmp_path / "colours_seed_3_1.pt"
    refuse = Refuse(capsys)
    assert "in a command of their own" in refuse("forget", "--class", "red", "--group", "camera1", "--ckpt", path)
    assert run(pfm, ["forget", "--group", "camera2", "--ckpt", str(path), "--out", str(tmp_path / "less.pt")]) == 0
    is_left = torch.tensor([group != "camera2" for group in data.train.groups or ()])
    fresh = fit(only(data, is_left), tmp_path / "fresh")
    less = load_checkpoint(tmp_path / "less.pt")
    assert less.exact["digest"] == fresh.exact["digest"]
    assert less.exact["digest"] in capsys.readouterr().out
    assert load_checkpoint(path).exact["digest"] == full.exact["digest"]
    (tmp_path / "less.pt").unlink()
    assert run(pfm, ["forget", "--sample", "image9.png", "--in_place", str(path)]) == 0
    (begun, done) = [
        record for record in ledger.read(tmp_path / "ledger.jsonl") if record["files"][0]["file"] == path.name
    ]
    assert (done["rows"], done["files"][0]["exact"]["weights"]) == (1, "solved from what is left")
    assert load_checkpoint(path).ledger_head == begun["hash"]
    assert "image9" not in (tmp_path / "ledger.jsonl").read_text()
    assert run(pfm, ["forget", "--class", "blue", "--in_place", str(path)]) == 0
    assert "is the model that never saw the class" in capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    assert "not in the memory" in refuse("forget", "--sample", "image9.png", "--in_place", path)


def test_a_checkpoint_that_would_have_no_sample_left_is_refused_before_another_one_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = image_data()
    is_one = torch.tensor([group == "camera1" for group in data.train.groups or ()])
    for name, kept in (("a", data), ("b", only(data, is_one))):
        save_checkpoint(tmp_path / f"{name}.pt", fit(kept, tmp_path / "run"))
    before = load_checkpoint(tmp_path / "a.pt").exact["digest"]
    files = [str(tmp_path / f"{name}.pt") for name in "ab"]
    assert run(pfm, ["forget", "--group", "camera1", "--in_place", *files]) == 2
    assert f"{files[1]}: that would leave no sample" in capsys.readouterr().err
    assert load_checkpoint(tmp_path / "a.pt").exact["digest"] == before
    loose = dataclasses.replace(data, train=dataclasses.replace(data.train, groups=None))
    learned = learn_on(load_checkpoint(tmp_path / "a.pt"), loose, Processes(device=torch.device("cpu"))).checkpoint
    save_checkpoint(tmp_path / "c.pt", learned)
    assert run(pfm, ["forget", "--group", "camera1", "--in_place", str(tmp_path / "c.pt")]) == 0
    assert "48 of its stored samples are of no group, and nothing says whose they are" in capsys.readouterr().out
