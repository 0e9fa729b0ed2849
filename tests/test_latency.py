"""Measuring: interleaved, raw samples kept, ratios paired by round."""

import time

import numpy as np
import pytest

from pfm_bench.latency import Samples, measure
from pfm_bench.report import Case, table, to_json


def test_every_call_runs_once_a_round_after_its_warm_up() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    samples = measure(calls, rounds=6, warmup_rounds=2, pause_ms=0)
    assert order[:6] == list("abcabc")
    rounds = [order[i : i + 3] for i in range(6, len(order), 3)]
    assert len(rounds) == 6
    assert all(sorted(entry) == list("abc") for entry in rounds)
    assert len({tuple(entry) for entry in rounds}) > 1  # the order changes from round to round
    assert all(len(samples.latency_ms[name]) == 6 for name in "abc")


def test_a_spent_budget_ends_the_run_after_the_least_number_of_rounds() -> None:
    samples = measure({"a": lambda: time.sleep(0.002)}, rounds=1000, budget_s=0, min_rounds=5, pause_ms=0)
    assert samples.rounds == 5
    assert samples.budget_was_spent


def test_percentiles_and_paired_ratios_come_from_the_raw_samples() -> None:
    drift = np.linspace(1, 3, 50)  # the machine slows down threefold during the run
    samples = Samples({"a": list(2 * drift), "b": list(drift)}, warmup_rounds=0, pause_ms=0)
    assert samples.percentiles("b")["p50_ms"] == pytest.approx(np.median(drift))
    assert samples.percentiles("b")["p99_ms"] == pytest.approx(np.percentile(drift, 99))
    assert samples.ratio("a", "b") == pytest.approx({"median": 2, "p10": 2, "p90": 2})


def test_the_document_keeps_raw_samples_and_host_and_the_table_has_a_row_each() -> None:
    latency = {Case(1, 2, "torch"): [2.0, 2.2, 2.4], Case(1, 2, "onnxruntime"): [1.0, 1.1, 1.2]}
    document = to_json(Samples(latency, 2, 5.0), settings={"threads": 1})
    assert [case["latency_ms"] for case in document["cases"]] == [[1.0, 1.1, 1.2], [2.0, 2.2, 2.4]]
    assert document["cases"][0]["latency_ratio_to_torch"]["median"] == pytest.approx(0.5)
    assert document["cases"][0]["images_per_s"] == pytest.approx(1000 / 1.1)
    assert document["settings"]["rounds"] == 3
    assert document["host"]["cores"] >= 1
    assert len(table(document).splitlines()) == 4
