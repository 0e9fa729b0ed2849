"""What a run is going to do, said before it does it."""

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from making.commands import train_arguments
from making.images import write_npz
from pfm.cli import pfm, run
from pfm.data.room import all_memory, free_memory
from pfm.training.plan import Plan
from pfm.training.position import is_due, num_due
from pfm.training.throughput import Rates

PLAN = Plan(
    splits={"train": 600, "test": 100}, file_shape=(3, 224, 224), stored_shape=(3, 224, 224),
    input_shape=(3, 224, 224), stored_bytes=10**9,
    recipe="paper", tokens=197, prompt_tokens=8,
    steps_per_epoch=19, epochs=10, global_batch=32, evaluations=10, evaluated_sets=21,
    weight_bytes=343 * 10**6, moving_bytes=7 * 10**6, activation_bytes=5 * 10**9,
)  # fmt: skip
RATES = Rates(
    samples_per_s=100.0, step_ms=1000.0, tflops_per_device=1.0, mfu=None, data_wait=0.0, peak_memory_mib=100.0
)


def test_a_run_says_its_plan_first_and_with_plan_nothing_else(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_npz(tmp_path / "colours.npz", train=70, test=22, size=32)
    arguments = train_arguments(data, tmp_path / "run", "--batch_size", "16", "--eval_every", "2")
    assert run(pfm, [*arguments, "--plan"]) == 0
    planned = capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    for line in (
        "recipe   paper",
        "samples  70 train, 22 test",
        "input    stored as 3 x 32 x 32, brought to 3 x 8 x 8",
        "tokens   5 of the input, with its special ones, and 4 of all prompts",
        "steps    10: 2 epochs of 5 steps of 16 samples; 1 evaluation of 13 active sets",
        "note: images of 32 x 32 are shrunk to 8 x 8, 6.2 % of their pixels",
    ):
        assert line in planned
    assert run(pfm, arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith(planned)


def test_the_plan_of_a_fit_says_its_recipe_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_npz(tmp_path / "colours.npz", train=70, test=22, size=32)
    exact = ["--readout", "ridge", "--features", "raw", "--width", "64", "--recipe", "recommended"]
    arguments = ["train", "--dataset", str(data), "--save_dir", str(tmp_path / "run"), *exact]
    assert run(pfm, [*arguments, "--plan"]) == 0
    planned = capsys.readouterr().out
    for line in (
        "recipe   recommended: chose nothing here",
        "samples  70 train, 22 test",
        "integers a sample, projected to 64",
    ):
        assert line in planned
    assert run(pfm, arguments) == 0
    assert capsys.readouterr().out.startswith(planned)


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    "option",
    [("prompt_tokens", 30_000_000), ("batch_size", 40_000_000), ("lora_r", 50_000_000), ("decoys", 30_000_000),
     ("width", 16_384)],
)  # fmt: skip
def test_a_run_that_is_far_too_large_for_memory_is_refused_before_its_model_is_built(
    option: tuple[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pfm.training.room.all_memory", lambda: 2**21)
    name, value = option
    data = write_npz(tmp_path / "colours.npz", train=3000 if name == "batch_size" else 70, test=22)
    exact = ["--readout", "ridge", "--features", "raw"] if name == "width" else ["--tune", "lora"]
    exact += ["--readout", "prompt", "--wrong_target", "none"] if name == "decoys" else []
    own = ["train", "--dataset", str(data), *exact] if name == "width" else [*train_arguments(data, tmp_path), *exact]
    for more in ([], ["--plan"]):
        assert run(pfm, [*own, f"--{name}", str(value), *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"pfm: --{name} {value}: the run would take about ")
        assert said.endswith("and this machine has 2.0 MiB; give a smaller number\n")
        assert len(said.splitlines()) == 1


def test_all_memory_is_more_than_what_is_free() -> None:
    assert 0 < free_memory() <= all_memory()


def test_the_time_is_said_where_it_is_long_and_counts_evaluations() -> None:
    # 170 s of steps; evaluations have 10 * 21 * 100 forward passes, all training 6 * 10 * 600: 7/12 of it
    text = PLAN.forecast(RATES, steps_left=170)
    assert text == "about 4 min to go, at 1000 ms a step and about 2 min for evaluations"
    assert PLAN.forecast(dataclasses.replace(RATES, step_ms=10.0), steps_left=170) is None
    without = dataclasses.replace(PLAN, evaluations=0)
    assert without.forecast(RATES, steps_left=170) == "about 3 min to go, at 1000 ms a step"


def test_what_is_wrong_with_the_data_is_said_before_the_run() -> None:
    assert PLAN.notes() == []
    shrunk = dataclasses.replace(PLAN, file_shape=(3, 2000, 1500), input_shape=(3, 32, 32))
    (note,) = shrunk.notes()
    assert "images of 2000 x 1500 are shrunk to 32 x 32, 0.034 % of their pixels" in note
    assert "--image_size" in note


def test_who_else_has_the_data_can_make_a_prompt_again_and_that_is_said(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = train_arguments(write_npz(tmp_path / "colours.npz"), tmp_path / "run", "--plan")
    shared = train_arguments("digits", tmp_path / "run", "--plan")
    for arguments, is_said in ((own, False), (shared, True), ([*shared, "--prompt_start", "secret"], False)):
        assert run(pfm, arguments) == 0
        said = capsys.readouterr().out
        assert ("note: prompts start from the samples of digits: whoever has that data set" in said) == is_said


def test_photographs_that_are_decoded_small_are_judged_by_their_own_size(
    tmp_path: Path, preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "photos" / split / name).mkdir(parents=True)
            for i, width in enumerate((40, 60, 80)):
                Image.new("L", (width, 50)).save(tmp_path / "photos" / split / name / f"{i}.png")
    assert run(pfm, [*train_arguments(f"imagefolder:{tmp_path / 'photos'}", tmp_path / "run"), "--plan"]) == 0
    said = capsys.readouterr().out
    assert "input    files of about 50 x 60 pixels, stored as 1 x 8 x 8, brought to 3 x 8 x 8" in said
    assert "note: images of 50 x 60 are shrunk to 8 x 8, 2.1 % of their pixels" in said


@pytest.mark.parametrize("every", [0, 1, 3, 7, 8, 20])
@pytest.mark.parametrize("count", [0, 1, 6, 7, 8])
def test_evaluations_are_counted_without_going_through_the_epochs(count: int, every: int) -> None:
    due = [every > 0 and (epoch + 1 == count or is_due(epoch, every)) for epoch in range(count)]
    assert num_due(count, every) == sum(due)
    assert num_due(10**20, 3) == (10**20 + 2) // 3  # `--epochs` behind which `--patience` stops


def test_a_plan_makes_no_key_of_groups(tmp_path: Path, preset: str) -> None:
    for split, number in ((split, number) for split in ("train", "test") for number in range(6)):
        for name in ("cat", "dog"):
            file = tmp_path / "photos" / split / name / f"{number}_{split}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    arguments = train_arguments(f"imagefolder:{tmp_path / 'photos'}", tmp_path / "run", "--group", "name:{group}_{n}")
    assert run(pfm, [*arguments, "--hash_groups", str(tmp_path / "key"), "--plan"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
