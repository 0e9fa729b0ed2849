"""`pfm bench` on a GPU: short rounds of every kind."""

import json
from pathlib import Path

import pytest

from making.benches import run_bench, tiny_preset
from making.served import FORMS
from pfm_bench.targets.choosing import choose_targets
from pfm_export.graph.export import export_bundle

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]
SHORT = ("--rounds", 5, "--seconds", 1)


@pytest.fixture(autouse=True)
def _preset() -> object:
    with tiny_preset():
        yield


@pytest.mark.parametrize("kind", ["train", "eval"])
def test_a_bench_of_training_or_evaluation(device: str, tmp_path: Path, kind: str) -> None:
    more = ("--num_images", 8) if kind == "eval" else ()
    said = run_bench(kind, "--model_name", "scratch:tiny", "--batch_size", 8, *SHORT, *more, "--out", tmp_path)
    found = json.loads((tmp_path / f"{kind}.json").read_text())
    assert found["settings"]["device"] == device
    assert bool(found["host"]["gpus"]) == (device == "cuda")
    assert "plain" in said
    if device == "cuda":
        assert all(variant["peak_memory_mib"] > 0 for variant in found["variants"])


@pytest.mark.slow(seconds=90)
def test_a_bench_of_serving(device: str, tmp_path: Path) -> None:
    export_bundle(FORMS["shared"][0](), tmp_path / "b")
    targets = choose_targets([], "auto")
    if device == "cuda":
        targets = ["torch", "torch-bf16", *(t for t in targets if t == "ort-cuda"), "ort-cpu"]
    run_bench("serve", "--bundle", tmp_path / "b", "--targets", ",".join(targets), "--batch_sizes", "1,4", *SHORT,
              "--scenarios", "single_stream,offline", "--out", tmp_path / "out")  # fmt: skip
    found = json.loads((tmp_path / "out" / "latency.json").read_text())
    where = {entry["name"]: entry["where"] for entry in found["targets"]}
    if device == "cuda":
        assert where["torch"] == "cuda"
        assert where.get("ort-cuda", "CUDAExecutionProvider") == "CUDAExecutionProvider"
