"""Two bench documents side by side: a slow-down is found, a busier machine is not one, nonsense is refused."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfm.cli import pfm, run
from pfm.errors import DataError
from pfm_bench.measuring.rounds import Samples
from pfm_bench.reports.compare import ComparedCase, Comparison, Measured, compare, describe_comparison, read_document
from pfm_bench.reports.header import Header
from pfm_bench.reports.serving_report import Case, ServingReport, case_results


def measured(*, seed: int, ort: float = 1.0, machine: float = 1.0) -> dict[str, Any]:
    """A document of 60 rounds with noise of a tenth; `ort` slows one target down, `machine` both."""
    random = np.random.default_rng(seed)
    drift = machine * np.exp(random.normal(0, 0.2, 60))  # of the machine, the same for all cases of a round
    slow = {"torch": 10.0, "ort-cpu": 5.0 * ort}
    samples = Samples[Case]({}, 2, 5.0)
    for target, middle in slow.items():
        for batch_size in (1, 8):
            times = middle * batch_size * drift * np.exp(random.normal(0, 0.02, 60))
            samples.latency_ms[Case(batch_size, 10, target)] = times.tolist()
            samples.cpu_ms[Case(batch_size, 10, target)] = (times / drift * machine).tolist()
    header = Header.of(samples, settings={"threads": [1]}, reference="torch")
    report = ServingReport(header=header, cases=case_results([samples], reference="torch"))
    return json.loads(json.dumps(report.to_dict()))


def compared(before: dict[str, Any], after: dict[str, Any]) -> Comparison:
    return compare(Measured.of(before), Measured.of(after))


def by_case(before: dict[str, Any], after: dict[str, Any]) -> dict[tuple[Any, Any], ComparedCase]:
    return {(case.key["target"], case.key["batch_size"]): case for case in compared(before, after).cases}


def test_a_known_slow_down_is_found_and_nothing_else() -> None:
    cases = by_case(measured(seed=1), measured(seed=2, ort=1.2))
    assert len(cases) == 4
    for batch_size in (1, 8):
        slowed = cases["ort-cpu", batch_size]
        assert slowed.verdict == "slower"
        assert slowed.ratios["to_reference"].median == pytest.approx(1.2, rel=0.02)
        assert slowed.ratios["cpu"].low < 1.2 < slowed.ratios["cpu"].high * 1.01
        assert cases["torch", batch_size].ratios["cpu"].median == pytest.approx(1, rel=0.02)
        assert "to_reference" not in cases["torch", batch_size].ratios
    back = by_case(measured(seed=2, ort=1.2), measured(seed=1))
    assert back["ort-cpu", 1].verdict == "faster"


def test_a_slower_machine_is_told_from_a_slower_target() -> None:
    cases = by_case(measured(seed=1), measured(seed=2, machine=1.5))
    ratios = cases["ort-cpu", 1].ratios
    assert ratios["wall"].low > 1.2
    assert ratios["to_reference"].median == pytest.approx(1, rel=0.02)


def test_a_document_equals_itself() -> None:
    document = measured(seed=1)
    comparison = compared(document, document)
    assert comparison.notes == ()
    assert all(case.verdict == "" for case in comparison.cases)
    assert all(ratio.median == 1 for case in comparison.cases for ratio in case.ratios.values())


def test_another_host_and_cases_of_one_document_only_are_noted() -> None:
    before, after = measured(seed=1), measured(seed=2)
    after["host"] = copy.deepcopy(before["host"])
    after["host"]["cores"] = 64
    after["host"]["versions"]["onnxruntime"] = "9.9"
    del after["cases"][0]
    said = describe_comparison(compared(before, after))
    assert f"note: the hosts differ in cores: {before['host']['cores']} → 64" in said
    assert "in versions: onnxruntime " in said
    assert "1 case is in one document only" in said
    assert len([line for line in said.splitlines() if line.startswith("| 1 |")]) == 3


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, ort in zip(paths, (1.0, 1.3), strict=True):
        path.write_text(json.dumps(measured(seed=1, ort=ort)))
    assert run(pfm, ["bench", "compare", *map(str, paths), "--out", str(tmp_path / "c.json")]) == 0
    said = capsys.readouterr().out
    assert "×1.30 (" in said
    assert "| slower |" in said
    assert json.loads((tmp_path / "c.json").read_text())["cases"][0]["verdict"] == "slower"


def test_documents_of_train_and_eval_are_compared_by_variant() -> None:
    folder = Path(__file__).parent.parent.parent / "bench" / "pfm_bench" / "results"
    before, after = (read_document(folder / f"bench_train_vit_{size}.json") for size in ("tiny", "small"))
    cases = {case.key["variant"]: case for case in compare(before, after).cases}
    assert cases["ours"].ratios["wall"].low > 1  # the larger model is the slower
    assert "to_reference" in cases["ours"].ratios
    assert read_document(folder / "latency.json").entries  # of an older version


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        (b"\xff\xfe\x00", "is not JSON"),
        ("[]", "is not a bench document"),
        ("{}", "is not a bench document"),
        ('{"cases": [], "host": {}, "settings": {}}', "is not a bench document"),
        ('{"cases": [{"target": "torch", "p50_ms": 1}], "host": {}, "settings": {}}', "is not a bench document"),
        ('{"cases": [{"latency_ms": [0]}], "host": {}, "settings": {}}', "is not a bench document"),
        ('{"cases": [{"latency_ms": ["x"]}], "host": {}, "settings": {}}', "is not a bench document"),
        ('{"cases": 3, "host": {}, "settings": {}}', "is not a bench document"),
    ],
)
def test_what_is_not_a_bench_document_is_refused(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_document(path)


def test_documents_with_nothing_in_common_are_refused() -> None:
    before, after = measured(seed=1), measured(seed=2)
    for case in after["cases"]:
        case["num_prompts"] = 11
    with pytest.raises(DataError, match="no case in common"):
        compared(before, after)
