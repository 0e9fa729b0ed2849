"""The tables of targets beside models that never saw the class: pooled gaps, and what is trained."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from audit_figures import gap_of, tables
from audit_settings import SETTINGS, VARIANTS, config_of, few
from audit_table import Bench, KeptTrunks
from many_hosts import Cases
from pfm.data.splits import Split


def case(forgotten: list[float], retrained: list[float]) -> dict[str, list[dict[str, float]]]:
    return {
        "forgotten": [{"auroc_1": value} for value in forgotten],
        "retrained": [{"auroc_1": value} for value in retrained],
    }


def test_the_pooled_gap_is_the_mean_over_classes_and_as_wide_as_models_differ() -> None:
    steady = gap_of([case([0.9, 0.9], [0.8, 0.8]), case([0.7, 0.7], [0.8, 0.8])], "auroc_1")
    assert (steady.mean, steady.low, steady.high) == pytest.approx((0.0, -10.0, 10.0), abs=1e-9)
    assert str(gap_of([case([0.9], [0.8])], "auroc_1")) == "+10.0 (+10.0 to +10.0)"
    noisy = gap_of([case([0.9, 0.7], [0.7, 0.9])], "auroc_1")
    assert noisy.mean == pytest.approx(0.0, abs=1e-9)
    assert -20.1 < noisy.low < -5
    assert 5 < noisy.high < 20.1
    assert str(gap_of([case([0.9, 0.7], [0.9, 0.7])], "auroc_1")) == "+0.0 (+0.0 to +0.0)"  # model by model the same


def test_the_table_has_a_row_a_variant_and_gaps_of_what_every_case_was_asked_for() -> None:
    row = {"full": 0.9, "retain": 0.9, "prompt_out": 0.1, "entropy": 0.5, "js": 0.1, "membership": 0.5, "auroc_1": 0.8}
    more = {**row, "relearned_all": 0.7}
    lines = tables({
        "cls, uniform; 1": {"forgotten": [more], "retrained": [{**more, "relearned_all": 0.75}]},
        "ridge; 1": {"forgotten": [row], "retrained": [row]},
    }).splitlines()  # fmt: skip
    assert lines[0].startswith("| | models |")
    assert lines[0].endswith("| gap, n = 1 | all weights |")
    assert {line.count("|") for line in lines[:4]} == {11}
    assert lines[2].startswith("| `cls`, uniform | 1 | 90.0 |")
    assert lines[2].endswith("| −5.0 (−5.0 to −5.0) |")
    assert lines[3].endswith("| +0.0 (+0.0 to +0.0) | |")
    assert lines[5:] == ["cls, uniform; 1: +0.0 -5.0", "ridge; 1: +0.0"]


@pytest.mark.parametrize("data", SETTINGS)
def test_every_variant_is_a_run_that_pfm_train_would_take(data: str) -> None:
    places = {"mednist": "mednist.npz", "fsdd": "audiofolder:fsdd", "backbone": "vit"}
    configs = {variant: config_of(data, variant, 2, places, "run") for variant in VARIANTS}
    assert all(config.train.seed == 2 for config in configs.values())
    recommended = configs["cls, recommended"]
    assert recommended.start.prompt_start == "secret"
    assert recommended.model.tune == ("prompts" if data == "lora" else "auto")


def test_data_are_read_as_a_run_of_its_first_variant_would(tmp_path: Path) -> None:
    bench = Bench("digits", {}, tmp_path / "work", is_choosing=False, seeds=(2,), device=torch.device("cpu"))
    assert len(bench.samples.train) + len(bench.samples.test) == 1797
    assert not (tmp_path / "work").exists()


def test_few_samples_are_the_same_ones_each_time() -> None:
    split = Split(torch.arange(20.0)[:, None], torch.arange(20) % 4)
    chosen = few(split, position=1, own=2, rest=3)
    assert sorted((chosen.labels == 1).tolist()) == [False, False, False, True, True]
    assert torch.equal(chosen.inputs, few(split, position=1, own=2, rest=3).inputs)


def test_a_file_takes_the_cases_of_another_machine_in_and_says_which_made_which(tmp_path: Path) -> None:
    older, elsewhere = tmp_path / "older.json", tmp_path / "elsewhere.json"
    older.write_text(json.dumps({"host": {"cores": 2}, "runs": {"cls; 1": 1, "cls; 3": 3}}))
    hosts = [{"device": "cuda", "cores": 16, "runs": ["cls; 3", "ridge; 1"]}]
    elsewhere.write_text(json.dumps({"hosts": hosts, "runs": {"cls; 3": 33, "ridge; 1": 11}}))
    found = Cases.read(older)
    found.take(Cases.read(elsewhere))
    assert found.runs == {"cls; 1": 1, "cls; 3": 33, "ridge; 1": 11}
    assert found.hosts == [
        {"device": "cpu", "cores": 2, "runs": ["cls; 1"]},
        {"device": "cuda", "cores": 16, "runs": ["cls; 3", "ridge; 1"]},
    ]
    found.add("cls; 1", 0, "cpu")  # made again, here
    assert [host["runs"] for host in found.hosts] == [["cls; 3", "ridge; 1"], ["cls; 1"]]
    assert Cases.read(tmp_path / "none.json").runs == {}


def stub(tokens: int, *, sees_prompts: bool) -> Any:
    config = SimpleNamespace(prompt_layer=1, prompt_tokens=tokens)
    return SimpleNamespace(trunk_is_frozen=True, config=config, readout=SimpleNamespace(sees_prompts=sees_prompts))


def test_a_trunk_that_is_kept_is_not_that_of_a_readout_with_a_projection_of_its_own() -> None:
    kept = KeptTrunks()
    added = {1: 1.0, 2: 2.0}
    kept.compute = lambda model, inputs: inputs + added[model.config.prompt_tokens]
    for sees_prompts, second in ((True, 1.0), (False, 2.0)):
        answers = [kept.trunk(stub(tokens, sees_prompts=sees_prompts), torch.zeros(1)) for tokens in added]
        assert [float(answer) for answer in answers] == [1.0, second]
