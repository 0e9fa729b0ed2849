"""`pfm bench eval` at a tiny size: the same answers as plain, figures derived from the raw samples."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from making.benches import run_bench, tiny_preset
from pfm.cli import pfm, run
from pfm_bench.scenarios.evaluating import INFER_BEST, Agreement, choose_subsets, compare_answers

VARIANTS = ["plain", "ours", "ours bf16", "ours L=1", "ours L=1 bf16"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote, and said in `said.txt`."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    with tiny_preset():
        said = run_bench(
            "eval", "--model_name", "scratch:tiny", "--num_classes", 4, "--batch_size", 4, "--num_images", 6,
            "--rounds", 5, "--max-subsets", 3, "--threads", 1, "--device", "cpu", "--out", folder,
        )  # fmt: skip
    (folder / "said.txt").write_text(said)
    return folder


@pytest.fixture
def document(out: Path) -> dict[str, Any]:
    return json.loads((out / "eval.json").read_text())


def test_the_command_says_and_draws_what_it_measured(out: Path) -> None:
    said = (out / "said.txt").read_text()
    assert all(f"| {name} |" in said for name in VARIANTS)
    assert "ours against plain, the same weights: 0 of 60 answers differ" in said  # 6 images, 1 + 9 questions
    assert (out / "eval.png").read_bytes().startswith(b"\x89PNG")


def test_every_variant_is_measured_and_answers_as_plain_does(document: dict[str, Any]) -> None:
    variants = {variant["name"]: variant for variant in document["variants"]}
    assert list(variants) == VARIANTS
    assert document["answers"] == variants["ours"]["answers"]
    assert document["answers"]["identical"]
    for variant in variants.values():
        assert len(variant["latency_ms"]) == document["settings"]["rounds"] == 5
        assert variant["images_per_s"] == pytest.approx(6000 / np.median(variant["latency_ms"]))
        pairs = np.array(variants["plain"]["latency_ms"]) / np.array(variant["latency_ms"])
        assert variant["speed_to_reference"]["wall"]["median"] == pytest.approx(np.median(pairs))
        assert ("answers" in variant) == ("L=1" not in variant["name"])  # another model than plain


def test_a_set_that_is_asked_for_twice_is_run_once_by_ours(document: dict[str, Any]) -> None:
    subsets = document["settings"]["subsets"]
    assert subsets == {"1": {"run": 3, "possible": 4}, "2": {"run": 3, "possible": 6}, "3": {"run": 3, "possible": 4}}
    variants = {variant["name"]: variant for variant in document["variants"]}
    assert variants["plain"]["forwards"] == 4 + 3 + 3 + 3
    assert {variants[name]["forwards"] for name in VARIANTS[1:]} == {4 + 3 + 3}  # k = 3 leaves one prompt


def test_subsets_are_all_or_as_many_as_asked_for() -> None:
    assert choose_subsets(4, 2, 0, seed=0) == choose_subsets(4, 2, 6, seed=1)
    some = choose_subsets(20, 10, 5, seed=0)
    assert len(set(some)) == 5
    assert all(len(set(subset)) == 10 and subset == tuple(sorted(subset)) for subset in some)
    assert some == choose_subsets(20, 10, 5, seed=0) != choose_subsets(20, 10, 5, seed=1)


def test_differing_answers_are_counted() -> None:
    reference = {INFER_BEST: torch.tensor([0, 1]), (0, 1): torch.tensor([2, 2])}
    found = compare_answers({**reference, (0, 1): torch.tensor([2, 3]), (1,): torch.tensor([0, 0])}, reference)
    assert found == Agreement(compared=4, differing=1)
    assert found.to_dict()["identical"] is False


def test_options_that_make_no_sense_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--num_images", "--max_subsets"):
        assert run(pfm, ["bench", "eval", option, "-1"]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert option in error
