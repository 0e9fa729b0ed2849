"""`pfm bench serve`: targets side by side, their arithmetic, options that make no sense."""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from making.benches import copy_as, run_bench, tiny_preset
from making.models import tiny_model, tiny_spec
from pfm.cli import pfm, run
from pfm.errors import ConfigError, DeviceError
from pfm.model.checkpoint import Checkpoint, save_checkpoint
from pfm.model.draws import shared_set
from pfm.storage import Json
from pfm_bench.commands.bench import bench
from pfm_bench.measuring import ceilings
from pfm_bench.measuring.ceilings import measure_ceilings
from pfm_bench.measuring.roofline import Roofline, forward_gflop, roofline
from pfm_bench.measuring.rounds import Samples
from pfm_bench.reports.header import Header
from pfm_bench.reports.serving_pictures import draw_prompts
from pfm_bench.reports.serving_report import Case, ScenarioResult, ServingReport, Work, case_results
from pfm_bench.reports.serving_tables import scenario_table, table
from pfm_bench.scenarios import SCENARIOS, Served, time_to_forget
from pfm_bench.scenarios import clock as clocks
from pfm_bench.scenarios.serving import bench_bundle
from pfm_bench.scenarios.serving_config import ServeBenchConfig
from pfm_bench.targets import TARGETS, onnx_runtime, random_bundle, torch_model
from pfm_bench.targets.choosing import choose_targets, plan_targets
from pfm_bench.targets.open_vino import OpenVinoTarget
from pfm_bench.targets.plan import Call, Plan
from pfm_bench.targets.random_bundle import ExportCost
from pfm_export.serving.bank import BANK

TARGETS_OF_RUN = ("torch", "torch-bf16", "ort-cpu", "ort-cpu bf16")
FEW = 4  # queries of a scenario, erasures


@pytest.fixture(scope="module")
def out(exported: tuple[Path, ExportCost], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command wrote, and said in `said.txt`."""
    folder = tmp_path_factory.mktemp("bench") / "out"
    bundle, cost = exported

    def write(checkpoint: Checkpoint, target: Path, *, precision: str) -> ExportCost:
        copy_as(bundle, target, form={"precision": precision})
        return cost

    with tiny_preset() as patch:
        patch.setattr(random_bundle, "write_random_bundle", write)
        patch.setattr(clocks, "MAX_QUERIES", FEW)
        patch.setattr(ceilings, "matmul_ceiling", functools.partial(ceilings.matmul_ceiling, sizes=(128,)))
        patch.setattr(ceilings, "INT8_SIZES", (64,))
        patch.setattr(time_to_forget, "REPEATS", FEW)
        said = run_bench(
            *"--random_weights scratch:tiny --num_classes 4 --precisions fp32,bf16 "
            "--targets torch,torch-bf16,ort-cpu --threads 1 --batch_sizes 1,2 --active_sizes 0,4 --rounds 6 "
            f"--scenarios single_stream,offline,time_to_forget --seconds 1 --out {folder}".split()
        )
    (folder / "said.txt").write_text(said)
    return folder


@pytest.fixture
def document(out: Path) -> dict[str, Any]:
    return json.loads((out / "latency.json").read_text())


def a_report(samples: Samples[Case], **changes: Any) -> ServingReport:
    header = Header.of(samples, settings={}, reference="torch")
    return ServingReport(header=header, cases=case_results([samples], reference="torch", **changes))


# --- the command ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_every_target_has_a_case_for_each_size_and_its_figures_follow_from_the_raw_samples(
    document: dict[str, Any],
) -> None:
    cases = {(c["target"], c["batch_size"], c["num_prompts"]): c for c in document["cases"]}
    assert set(cases) == {(t, b, k) for t in TARGETS_OF_RUN for b in (1, 2) for k in (0, 4)}
    measured = document["settings"]["matmul_ceiling_gflop_per_s"]["1"]
    for (target, batch_size, count), case in cases.items():
        assert len(case["latency_ms"]) == len(case["cpu_ms"]) == document["settings"]["rounds"]
        assert case["p50_ms"] == pytest.approx(np.median(case["latency_ms"]))
        assert case["images_per_s"] == pytest.approx(1000 * batch_size / case["p50_ms"])
        torch_case = cases["torch", batch_size, count]
        for clock, times in (("wall", "latency_ms"), ("cpu", "cpu_ms")):
            ratio = case["ratio_to_reference"][clock]
            assert ratio["median"] == pytest.approx(np.median(np.array(case[times]) / np.array(torch_case[times])))
            assert ratio["low"] <= ratio["median"] <= ratio["high"]
        gflop = batch_size * case["gflop_per_image"]
        ceiling = measured["cpu bf16" if target == "torch-bf16" else "cpu fp32"]  # ORT stores bf16 and computes in fp32
        assert case["share_of_ceiling"] == pytest.approx(gflop * 1000 / case["p50_ms"] / ceiling)
        assert case["share_of_ceiling_by_cpu"] == pytest.approx(gflop * 1000 / case["cpu_p50_ms"] / ceiling)


@pytest.mark.slow
def test_the_document_says_what_was_loaded_exported_and_found_in_the_scenarios(document: dict[str, Any]) -> None:
    assert document["settings"]["where"] == {
        "torch": "cpu", "torch-bf16": "cpu", "ort-cpu": "CPUExecutionProvider", "ort-cpu bf16": "CPUExecutionProvider",
    }  # fmt: skip
    assert all(entry["load_s"] > 0 and entry["first_call_ms"] > 0 for entry in document["targets"])
    assert list(document["export"]) == ["fp32", "bf16"]
    found = {(entry["scenario"], entry["target"]) for entry in document["scenarios"]}
    both = {(name, target) for name in ("single_stream", "offline") for target in TARGETS_OF_RUN}
    assert found == {*both, ("time_to_forget", "PromptSession fp32"), ("time_to_forget", "PromptSession bf16")}
    forget = document["scenarios"][-1]
    assert len(forget["latency_ms"]) == FEW
    assert 0 < forget["erase_p50_ms"] <= forget["p50_ms"]


def test_what_an_export_costs_is_measured_and_written(
    exported: tuple[Path, ExportCost], document: dict[str, Any]
) -> None:
    folder, cost = exported
    assert cost.graph.cpu_s > 0
    assert cost.bundle.cpu_s > 0
    assert cost.bundle_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert cost.bundle_bytes > cost.graph_bytes > 10_000
    assert document["export"] == {"fp32": cost.to_dict(), "bf16": cost.to_dict()}


@pytest.mark.slow
def test_the_command_says_and_draws_what_it_measured(out: Path) -> None:
    said = (out / "said.txt").read_text()
    assert "GFLOP/s | of ceiling" in (out / "latency.md").read_text()  # all columns; what is said fits a terminal
    widest = max(len(line) for line in said.splitlines() if line.startswith("|"))
    assert widest <= 104  # 100, and more by the digits of what was measured
    assert "| torch-bf16 |" in said
    assert "| time_to_forget | PromptSession fp32 | 1 | p50 " in said
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in ("latency.png", "prompts.png"))
    assert {file.name for file in out.iterdir()} == {  # nothing temporary is left
        "latency.json", "latency.md", "latency.png", "prompts.png", "said.txt"
    }  # fmt: skip


@pytest.mark.slow
def test_bundles_of_several_precisions_and_several_thread_counts_stand_in_one_document(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ceilings, "INT8_SIZES", (64,))
    other = copy_as(bundle, tmp_path / "int8", form={"precision": "int8"})
    before = (torch.get_num_threads(), (bundle / BANK).read_bytes())
    config = ServeBenchConfig(
        targets="ort-cpu", threads="2,1", batch_sizes="1", active_sizes="1,2", rounds=5, device="cpu"
    )
    report = bench_bundle([bundle, other], None, config, workplace=tmp_path)
    assert {(c.case.target, c.case.threads) for c in report.cases} == {
        (target, threads) for target in ("ort-cpu", "ort-cpu int8") for threads in (1, 2)
    }
    assert all(c.ratio_to_reference is not None for c in report.cases)
    assert report.header.reference == "ort-cpu"
    assert "| 2 | 1 | 2 | ort-cpu int8 |" in table(report)
    draw_prompts(report, tmp_path / "prompts.png")
    assert (torch.get_num_threads(), (bundle / BANK).read_bytes()) == before


# --- arithmetic -----------------------------------------------------------------------------------


def test_a_table_leaves_out_what_was_not_measured() -> None:
    latency = {Case(1, 2, "torch"): [2.0, 2.2, 2.4], Case(1, 2, "ort-cpu"): [1.0, 1.1, 1.2]}
    report = a_report(Samples(latency, 2, 5.0))
    assert [result.latency_ms for result in report.cases] == [[1.0, 1.1, 1.2], [2.0, 2.2, 2.4]]
    assert report.cases[0].ratio_to_reference is not None
    assert report.cases[0].ratio_to_reference["wall"].median == pytest.approx(0.5)
    assert report.to_dict()["host"]["cores"] >= 1  # type: ignore[index, operator]
    header, _, first, _ = table(report).splitlines()
    assert "GFLOP" not in header
    assert "×0.50 (0.50–0.50)" in first


@pytest.mark.parametrize("changes", [{}, {"readout": "prompt"}, {"prompt_tokens": 3, "prompt_layer": 1}])
def test_operations_of_a_forward_are_what_torch_counts(changes: dict[str, Any]) -> None:
    model = tiny_model(**changes)
    model.backbone.encoder.set_eager(True)
    manifest = {
        "backbone": {"model_name": "tiny", "config": tiny_spec().config},
        "readout": "cls",
        "prompt_tokens": 1,
        **changes,
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.logits(torch.zeros(1, 3, 8, 8), shared_set([0, 1, 2, 3], 1, torch.device("cpu")))
    assert forward_gflop(manifest, 4) * 1e9 == pytest.approx(counter.get_total_flops())


def test_a_vit_base_is_35_gflop_by_the_formula() -> None:
    config = {
        "image_size": 224, "patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    manifest = {"backbone": {"model_name": "x", "config": config}, "prompt_tokens": 1, "readout": "cls"}
    # all blocks whole, 84.93 M · N + 18,432 · N² + 115.6 M multiply-adds; the cut one saves all but one row
    tokens = 197
    whole = 84.93e6 * tokens + 18432 * tokens**2 + 115.6e6
    saved = (tokens - 1) * (2 * 768**2 + 2 * 768 * 3072 + 2 * tokens * 768)
    assert forward_gflop(manifest, 0) == pytest.approx(2 * (whole - saved) / 1e9, rel=1e-3)


def test_percent_of_roofline_is_work_over_time_over_ceiling() -> None:
    figures = roofline(10.0, 200.0, 100.0, cpu_ms=320.0, threads=2)
    # 10 GFLOP in 0.2 s are 50 GFLOP/s; two threads that each worked 0.16 s would have done it at 62.5
    assert figures.to_dict() == pytest.approx(
        {"gflop_per_s": 50, "share_of_ceiling": 0.5, "share_of_ceiling_by_cpu": 0.625}
    )
    assert roofline(10.0, 200.0, None).share_of_ceiling is None
    assert roofline(10.0, 200.0, 100.0).share_of_ceiling_by_cpu is None
    work = Work(gflop_per_image=2.0, ceiling=10.0, is_on_cpu=False)
    case = Case(4, 1, "ort-cuda", 2)
    samples = Samples({case: [1000.0] * 5}, 0, 0.0, cpu_ms={case: [1.0] * 5})
    found = a_report(samples, work=lambda _: work).cases[0].roofline
    # a GPU's work takes no CPU time
    assert found == Roofline(gflop_per_s=8, share_of_ceiling=0.8, share_of_ceiling_by_cpu=None)


def test_in_brief_the_table_fits_a_terminal() -> None:
    torch_case, ours = Case(32, 10, "torch"), Case(32, 10, "ort-cpu")
    latency = {torch_case: [168.0, 1200.0], ours: [8.1, 28.1]}
    report = a_report(
        Samples(latency, 0, 0.0, cpu_ms=latency), work=lambda _: Work(gflop_per_image=2.0, ceiling=10.0, is_on_cpu=True)
    )
    assert max(map(len, table(report, is_brief=True).splitlines())) <= 100
    assert "of ceiling" in table(report)


def test_a_ceiling_that_cannot_be_measured_is_left_out() -> None:
    measured = measure_ceilings([("cpu", "fp32"), ("cpu", "fp32"), ("cpu", "int3")])
    assert list(measured) == ["cpu fp32"]
    assert measured["cpu fp32"] > 0


# --- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle", "uint8_bundle"])
def test_all_targets_of_a_plan_compute_the_same(
    name: str, state: Checkpoint, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("openvino")
    weights = tmp_path / "model.pt"
    save_checkpoint(weights, state)
    folder: Path = request.getfixturevalue(name)
    targets = ["torch", "torch-bf16", "ort-cpu", "openvino", "openvino-bf16"]
    plans = plan_targets(targets, [folder], weights, device="cpu", threads=1)
    calls = {plan.name: np.asarray(plan.build_call(3, 4)()).reshape(3, 4) for plan in plans}
    np.testing.assert_allclose(calls["ort-cpu"], calls["torch"], atol=1e-4)  # float32, another order of sums
    np.testing.assert_allclose(calls["openvino"], calls["torch"], atol=1e-4)
    assert OpenVinoTarget.where.lower().startswith("cpu")  # so that its share of the CPU's ceiling is told
    for name in ("torch-bf16", "openvino-bf16"):
        np.testing.assert_allclose(calls[name], calls["torch"], atol=0.1)  # 8 bits of mantissa
    assert np.abs(calls["torch"]).max() > 0.3  # the control
    assert not np.array_equal(calls["torch-bf16"], calls["torch"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch's own import
def test_the_compiled_target_computes_the_same(bundle: Path) -> None:
    results = []
    for kind in ("torch", "torch.compile"):
        torch.manual_seed(0)
        (plan,) = plan_targets([kind], [bundle], None, device="cpu", threads=1)
        results.append(np.asarray(plan.build_call(2, 3)()))
    np.testing.assert_allclose(results[1], results[0], atol=1e-4)


def test_targets_are_named_after_what_tells_their_bundles_apart(bundle: Path, tmp_path: Path) -> None:
    folders = [bundle, copy_as(bundle, tmp_path / "a"), copy_as(bundle, tmp_path / "b", form={"precision": "int8"})]
    plans = plan_targets(["torch", "ort-cpu"], folders, None, device="cpu", threads=1)
    assert [plan.name for plan in plans] == ["torch", "ort-cpu (bundle)", "ort-cpu (a)", "ort-cpu int8"]
    assert [plan.precision for plan in plans] == ["fp32", "fp32", "fp32", "int8"]
    twin = copy_as(bundle, tmp_path / "deeper" / "a")
    with pytest.raises(ConfigError, match=r"both be called 'ort-cpu \(a\)'"):
        plan_targets(["ort-cpu"], [folders[1], twin], None, device="cpu", threads=1)


def test_bundles_of_different_models_are_refused(bundle: Path, tmp_path: Path) -> None:
    backbone = {"model_name": "scratch:other", "config": {}}
    other = copy_as(bundle, tmp_path / "other", backbone=backbone)
    with pytest.raises(ConfigError, match="is of another model than"):
        bench_bundle([bundle, other], None, ServeBenchConfig(device="cpu"), workplace=tmp_path)
    with pytest.raises(ConfigError, match="--active_sizes 5: the bundle has 4 classes"):
        bench_bundle([bundle], None, ServeBenchConfig(active_sizes="1,5", device="cpu"), workplace=tmp_path)


def test_the_default_targets_are_those_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_targets([], "auto") == choose_targets([], "cpu") == ["torch", "ort-cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(onnx_runtime, "choose_providers", lambda device: ["CUDAExecutionProvider"])
    assert choose_targets([], "auto") == ["torch", "ort-cpu", "ort-cuda"]
    assert choose_targets([], "cuda") == ["torch", "ort-cuda"]
    assert choose_targets([], "cpu") == ["torch", "ort-cpu"]
    with pytest.raises(DeviceError, match="--targets ort-cuda: --device cpu was given"):
        choose_targets(["ort-cuda"], "cpu")


class Idle:
    """A target that does nothing."""

    reads_bundle = True
    where = "cpu"

    def check(self, device: str) -> None: ...

    def is_default(self, device: str) -> bool:
        return False

    def precision(self, of_bundle: str) -> str:
        return of_bundle

    def arithmetic(self, precision: str) -> str:
        return precision

    def build(self, plan: Plan) -> "Idle":
        return self

    def prepare(self, batch_size: int, num_prompts: int) -> Call:
        return lambda: None


@dataclass
class Counted:
    """How many prompts a query has."""

    count: int

    def to_dict(self) -> Json:
        return {"count": self.count}

    def describe(self) -> str:
        return f"{self.count} prompts"


def count_prompts(served: Served) -> list[ScenarioResult]:
    return [
        ScenarioResult(scenario="counting", target=plan.name, figures=Counted(served.num_prompts))
        for plan in served.plans
    ]


def test_a_target_and_a_scenario_from_elsewhere_are_measured_like_ours(bundle: Path, tmp_path: Path) -> None:
    TARGETS.register("idle", Idle())
    SCENARIOS.register("counting", count_prompts)
    try:
        config = ServeBenchConfig(
            targets="idle", scenarios="counting", threads="1", batch_sizes="1", active_sizes="2", rounds=5
        )
        report = bench_bundle([bundle], None, config, workplace=tmp_path)
    finally:
        TARGETS.remove("idle")
        SCENARIOS.remove("counting")
    assert [result.case.target for result in report.cases] == ["idle"]
    assert "| counting | idle | 1 | 2 prompts |" in scenario_table(report)
    assert report.to_dict()["scenarios"] == [{"threads": 1, "scenario": "counting", "target": "idle", "count": 2}]


def test_torch_compile_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_model.shutil, "which", lambda name: None)
    with pytest.raises(DeviceError, match=r"--targets torch\.compile: there is no C\+\+ compiler"):
        choose_targets(["torch.compile"], "cpu")


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["--batch_sizes", "--batch-sizes"])
def test_bench_without_a_subcommand_is_serve(
    spelling: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(bench.commands["serve"], "callback", lambda **options: seen.append(options))
    for words in (["bench"], ["bench", "serve"]):
        assert run(pfm, [*words, "--bundle", "somewhere", spelling, "3"]) == 0
    assert seen[0] == seen[1]
    assert (seen[0]["bundles"], seen[0]["batch_sizes"]) == ((Path("somewhere"),), "3")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_of_bench_lists_its_commands(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(pfm, ["bench", option]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].split()
    assert {"serve", "train", "eval", "compare"} <= set(listed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--colour blue", "No such option"),
        ("--rounds 9", "give either --bundle, or --random_weights"),
        ("--bundle a --random_weights scratch:vit_digits", "give either --bundle, or --random_weights"),
        ("--random_weights scratch:vit_digits --ckpt a.pt", "--random_weights has no checkpoint"),
        ("--random_weights scratch:huge", "no preset 'scratch:huge'"),
        (
            "--bundle a --targets tensorflow",
            "--targets: there is no target 'tensorflow'; choose one of torch",
        ),
        ("--bundle a --targets torch,ort-cuda", "--targets ort-cuda: this machine has no GPU"),
        ("--bundle a --targets ort-tensorrt", "--targets ort-tensorrt: this machine has no GPU"),
        ("--bundle a --device cuda", "--device cuda: this machine has no GPU"),
        ("--bundle a --scenarios offline,online", "--scenarios: there is no scenario 'online'"),
        ("--bundle a --batch_sizes 1,x", "--batch_sizes '1,x': whole numbers separated by commas"),
        ("--bundle a --batch_sizes 0", "--batch_sizes '0': numbers from 1 up"),
        ("--bundle a --active_sizes -1", "--active_sizes '-1': numbers from 0 up"),
        ("--bundle a --threads two", "--threads 'two': whole numbers"),
        ("compare a.json b.json", "cannot read a.json: No such file"),
        ("trian", "No such command 'trian'"),
        ("serve --bundle nowhere", "nowhere; `pfm export onnx` writes one"),
        ("--bundle nowhere", "nowhere; `pfm export onnx` writes one"),
    ],
)
def test_what_bench_cannot_do_is_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(pfm, ["bench", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []
