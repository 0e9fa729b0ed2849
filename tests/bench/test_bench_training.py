"""`pfm bench train` at a tiny size: every variant measured, figures from raw samples, operations as torch counts."""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from making.benches import run_bench, tiny_preset
from making.models import tiny_backbone, tiny_model, tiny_spec
from pfm.cli import pfm, run
from pfm.model.decoys import draw_decoys
from pfm.model.flops import StepWork, step_flops
from pfm.training.config import ObjectiveConfig
from pfm.training.objective import Objective
from pfm_bench.measuring.ceilings import matmul_ceiling
from pfm_bench.measuring.memory import peak_in_child
from pfm_bench.scenarios import training
from pfm_bench.scenarios.training_steps import OurStep, PlainStep, list_training_variants, prompts_drawn
from pfm_bench.targets.config import TrainBenchConfig
from pfm_bench.targets.plain import PlainClassifier
from pfm_bench.targets.workbench import HEAVY, LORA, Variant, set_up

VARIANTS = ["plain", "ours", "ours bf16", "ours L=1", "ours L=1 bf16", "ours L=1 cached", "ours L=1 cached bf16"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote, and said in `said.txt`."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    with tiny_preset() as patch:
        patch.setattr(training, "matmul_ceiling", functools.partial(matmul_ceiling, sizes=(128,)))
        said = run_bench(
            "train", "--model_name", "scratch:tiny", "--num-classes", 4, "--batch_size", 4,
            "--rounds", 5, "--threads", 1, "--device", "cpu", "--out", folder,
        )  # fmt: skip
    (folder / "said.txt").write_text(said)
    return folder


@pytest.fixture
def document(out: Path) -> dict[str, Any]:
    return json.loads((out / "train.json").read_text())


@pytest.mark.slow
def test_the_command_says_and_draws_what_it_measured(out: Path) -> None:
    said = (out / "said.txt").read_text()
    assert all(f"| {name} |" in said for name in VARIANTS)
    assert "building 3 prompts a sample, batch 256" in said
    assert (out / "train.png").read_bytes().startswith(b"\x89PNG")


def test_every_variant_is_measured_and_its_figures_follow_from_the_raw_samples(document: dict[str, Any]) -> None:
    variants = {variant["name"]: variant for variant in document["variants"]}
    assert list(variants) == VARIANTS
    plain = variants["plain"]
    for variant in variants.values():
        assert len(variant["latency_ms"]) == len(variant["cpu_ms"]) == document["settings"]["rounds"] == 5
        assert variant["images_per_s"] == pytest.approx(4000 / np.median(variant["latency_ms"]))
        for clock, times in (("wall", "latency_ms"), ("cpu", "cpu_ms")):
            speed = variant["speed_to_reference"][clock]
            expected = np.median(np.array(plain[times]) / np.array(variant[times]))
            assert speed["median"] == pytest.approx(expected)
            assert speed["low"] <= speed["median"] <= speed["high"]
        assert np.isfinite(variant["last_loss"])
    assert plain["speed_to_reference"]["wall"] == {"median": 1, "low": 1, "high": 1}


def test_the_operations_are_those_of_the_prompts_that_were_drawn(document: dict[str, Any]) -> None:
    drawn = document["settings"]["prompts_by_round"]
    assert len(drawn) == 5
    for variant in document["variants"]:
        work = StepWork(
            prompts=(),
            num_scores=4,
            rank=4,
            prompt_layer=1 if "L=1" in variant["name"] else 0,
            is_cached="cached" in variant["name"],
            is_plain=variant["name"] == "plain",
        )
        counts = [step_flops(tiny_spec(), replace(work, prompts=tuple(pair))) / 1e9 for pair in drawn]
        assert variant["gflop_per_image"] == pytest.approx(np.mean(counts), rel=1e-5)
        rates = np.array(counts) * 4000 / variant["latency_ms"]
        assert variant["gflop_per_s"] == pytest.approx(np.median(rates), rel=1e-5)
        dtype = "bfloat16" if "bf16" in variant["name"] else "float32"
        ceiling = document["settings"]["matmul_ceiling_gflop_per_s"][dtype]
        assert variant["share_of_ceiling"] == pytest.approx(variant["gflop_per_s"] / ceiling, rel=1e-5)


def test_prompt_building_and_disk_are_beside_plain(document: dict[str, Any]) -> None:
    assert [entry["batch_size"] for entry in document["prompt_building"]] == [32, 256]
    for entry in document["prompt_building"]:
        pairs = np.array(entry["latency_ms"]["plain"]) / np.array(entry["latency_ms"]["ours"])
        assert entry["speed_to_plain"]["wall"]["median"] == pytest.approx(np.median(pairs))
    disk = document["disk"]
    assert disk["ratio"] == pytest.approx(disk["plain_bytes"] / disk["ours_bytes"])
    assert disk["ours_bytes"] > 1000


@pytest.mark.usefixtures("preset")
def test_all_variants_of_a_round_see_equally_many_prompts() -> None:
    bench = set_up(config(batch_size=2, rounds=8))
    seen: list[tuple[int, int]] = []
    step = PlainStep(bench)
    forward = step.model.forward
    step.model.forward = lambda inputs, chosen: seen.append(np.shape(chosen)) or forward(inputs, chosen)  # type: ignore[assignment]
    ours = OurStep(bench, Variant())
    presents: list[tuple[int, ...]] = []
    ours.model.register_forward_pre_hook(lambda _, args: presents.extend(tuple(p.shape) for p in args[1]))
    for _ in range(8):
        step()
        ours()
    assert [shape[1] for shape in seen] == [shape[1] for shape in presents]
    assert [(seen[2 * i][1], seen[2 * i + 1][1]) for i in range(8)] == [prompts_drawn(bench, i) for i in range(8)]
    assert len({shape[1] for shape in seen}) > 2


def config(**changes: Any) -> TrainBenchConfig:
    values = {"model_name": "scratch:tiny", "num_classes": 4, "batch_size": 4, "rounds": 5, "threads": 1}
    return TrainBenchConfig(**{**values, "device": "cpu", **changes})


@pytest.mark.usefixtures("preset")
def test_a_step_of_every_variant_trains_what_it_should() -> None:
    bench = set_up(config())
    for variant in list_training_variants(bench.spec):
        step = OurStep(bench, variant)
        before = {name: tensor.clone() for name, tensor in step.model.named_parameters()}
        step()
        step()
        changed = {name for name, tensor in step.model.named_parameters() if not torch.equal(tensor, before[name])}
        trained = set(step.model.trained_tensors())
        assert changed <= trained, variant
        assert {"bank.prompts", "classifier.weight"} <= changed, variant
        lora = {name for name in trained if "lora_" in name}
        assert any(name in changed for name in lora), variant
        frozen = {tensor.dtype for name, tensor in step.model.named_parameters() if "fc1.weight" in name}
        assert frozen == {variant.frozen}
        assert {tensor.dtype for tensor in step.model.trained_tensors().values()} == {torch.float32}


def test_every_variant_has_its_compiled_twin_and_its_own_name() -> None:
    variants = list_training_variants(tiny_spec(), compiled=True)
    assert [variant.name for variant in variants] == [*VARIANTS[1:], *(f"{name} compiled" for name in VARIANTS[1:])]
    assert len(set(variants)) == len(variants)


@pytest.mark.usefixtures("preset")
def test_cached_tokens_give_the_loss_of_the_whole_model() -> None:
    bench = set_up(config())
    losses = []
    for variant in (Variant(1), Variant(1, is_cached=True)):
        step = OurStep(bench, variant)
        step.wrapped.eval()  # no dropout, so that both see the same
        step()
        assert step.last_loss is not None
        losses.append(step.last_loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


# --- the count of operations, beside what torch counts of an eager run -----------------------------


@pytest.mark.parametrize("prompts", [(3, 2), (1, 1), (4, 0)])
@pytest.mark.parametrize("prompt_layer", [0, 1, 2])
def test_operations_of_our_step_are_what_torch_counts(prompts: tuple[int, int], prompt_layer: int) -> None:
    model = tiny_model(backbone=tiny_backbone(num_hidden_layers=3), lora=LORA, tune="lora", prompt_layer=prompt_layer)
    model.backbone.encoder.set_eager(True)  # of a fused attention torch counts other products on each device
    inputs, labels = torch.randn(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64)
    presents = [torch.arange(count)[None] for count in prompts]
    with FlopCounterMode(display=False) as forward:
        logits = model(inputs, presents)
    with FlopCounterMode(display=False) as backward:
        Objective(model, ObjectiveConfig())(logits[0], logits[1], labels).mean().backward()
    work = StepWork(prompts=prompts, num_scores=4, rank=4, prompt_layer=prompt_layer)

    def count(**changes: bool) -> float:
        return step_flops(tiny_spec(num_hidden_layers=3), replace(work, **changes))

    assert forward.get_total_flops() == count(has_backward=False)
    assert forward.get_total_flops() + backward.get_total_flops() == count()
    with FlopCounterMode(display=False) as trunk, torch.no_grad():
        model.trunk(inputs)
    assert trunk.get_total_flops() == count() - count(is_cached=True)


def test_operations_of_a_step_with_decoys_are_what_torch_counts() -> None:
    model = tiny_model(lora=LORA, tune="lora", readout="prompt", wrong_target="none")
    model.backbone.encoder.set_eager(True)
    presents = [torch.arange(count)[None] for count in (3, 2)]
    drawn = draw_decoys((2, 1, model.row_size), torch.Generator())
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 3, 8, 8), presents, decoys=drawn)
    work = StepWork(prompts=(5, 4), num_scores=1, rank=4, has_backward=False, reads_prompts=True)
    assert counter.get_total_flops() == step_flops(tiny_spec(), work)


@pytest.mark.parametrize("prompts", [(3, 2), (1, 1), (4, 0)])
def test_operations_of_the_plain_step_are_what_torch_counts(prompts: tuple[int, int]) -> None:
    model = PlainClassifier(tiny_spec(), 4, LORA)
    model.encoder.set_eager(True)
    inputs = torch.randn(1, 3, 8, 8)
    with FlopCounterMode(display=False) as counter:
        sum(model(inputs, [list(range(count))]).sum() for count in prompts).backward()  # type: ignore[union-attr]
    work = StepWork(prompts=prompts, num_scores=4, rank=4, is_plain=True)
    assert counter.get_total_flops() == step_flops(tiny_spec(), work)


def test_the_ceiling_is_a_rate() -> None:
    rate = matmul_ceiling(torch.device("cpu"), torch.float32, sizes=(64,), repeats=2)
    assert 0 < rate < 1e6


# --- memory, options ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("preset")
def test_memory_of_a_variant_is_measured_in_a_process_of_its_own() -> None:
    wide = set_up(config(batch_size=256))
    narrow = set_up(config(batch_size=4))
    ballast = torch.zeros(2**28, dtype=torch.uint8)  # of this process, and no part of the child's
    peaks = {
        name: peak_in_child(functools.partial(OurStep, bench, Variant()), calls=2, preload=HEAVY)
        for name, bench in (("wide", wide), ("narrow", narrow))
    }
    assert 0 < peaks["narrow"] < peaks["wide"] < 256, ballast.shape


@pytest.mark.usefixtures("preset")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--model_name scratch:huge", "no preset 'scratch:huge'"),
        ("--model_name scratch:ast_mini", "takes sounds; pfm bench train and eval measure images"),
        ("--num_classes 1", "--num_classes"),
        ("--batch_size 0", "--batch_size"),
        ("--rounds 2", "--rounds"),
        ("--seconds nan", "nan is not a finite number"),
        ("--device tpu", "'tpu' is not one of"),
        ("--bundle x", "No such option"),
    ],
)
@pytest.mark.parametrize("command", ["train", "eval"])
def test_options_that_make_no_sense_are_one_line(
    command: str, options: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(pfm, ["bench", command, "--out", str(tmp_path / "out"), *options.split()]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_not_there_is_refused(
    preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(pfm, ["bench", "train", "--model_name", preset, "--device", "cuda"]) == 2
    assert "--device cuda: this machine has no GPU" in capsys.readouterr().err
