"""`pfm bench load` against a server: what it counts, and that it sees what is wrong."""

import json
import shutil
from pathlib import Path

import pytest

from making.served import export_form, listening
from pfm.cli import pfm, run
from pfm_bench.scenarios.load import Answer, Phase, is_same
from pfm_bench.scenarios.load_plan import LoadPlan


@pytest.mark.slow
def test_a_server_under_load_while_a_class_is_erased(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(export_form("requests", tmp_path / "exported"), tmp_path / "model"))
    with listening(folder) as (_, address):
        code = run(
            pfm,
            [
                "bench", "load", "--address", f"http://{address}", "--model", "model", "--sets", "3", "--clients", "4",
                "--loads", "0.5,0.8", "--seconds", "0.5", "--erase", "blue", "--out", str(tmp_path / "out"),
            ],
        )  # fmt: skip
        assert code == 0, capsys.readouterr().err
    document = json.loads((tmp_path / "out" / "load.json").read_text())
    assert [phase["name"] for phase in document["phases"]] == ["alone", "4 clients", "load 50%", "load 80%"]
    for phase in document["phases"]:
        assert phase["wrong"] == 0
        assert set(phase["statuses"]) == {"200"}
        assert phase["p50_ms"] <= phase["p99_ms"]
    assert "blue" in (folder / "ledger.jsonl").read_text()


def test_answers_are_compared_with_those_alone() -> None:
    alone = Answer(200, "a", {"a": 0.7, "b": 0.3})
    assert is_same(Answer(200, "a", {"a": 0.700001, "b": 0.299999}), alone)
    assert not is_same(Answer(200, "a", {"a": 0.6, "b": 0.4}), alone)
    assert is_same(Answer(200, "b", {"b": 1.0}), alone)  # a was erased since
    assert not is_same(Answer(200, "b", {"a": 0.4, "b": 0.5}), Answer(200, "a", {"a": 0.4, "b": 0.3, "c": 0.3}))


def test_a_phase_says_how_many_were_answered_and_what_became_of_the_others() -> None:
    phase = Phase("load 80%", 100.0, seconds=2.0, latencies_ms=[1.0, 2.0, 3.0])
    phase.statuses.update({200: 3, 429: 2, 0: 1})
    assert "1.5 of 100.0 requests/s  p50 2.0 ms" in phase.describe()
    assert phase.describe().endswith("wrong 0  2 x 429, 1 x broken")
    assert phase.to_dict()["statuses"] == {"0": 1, "200": 3, "429": 2}


def test_shares_of_the_capacity_are_numbers() -> None:
    assert LoadPlan(loads="0.5, 1.2").shares == (0.5, 1.2)
    with pytest.raises(Exception, match="--loads"):
        LoadPlan(loads="half")
