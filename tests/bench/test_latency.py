"""Measuring: interleaved, raw samples kept, ratios paired by round."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pfm.storage import Json
from pfm_bench.measuring.memory import peak_memory_mib
from pfm_bench.measuring.rounds import Samples, measure
from pfm_bench.measuring.stats import Ratio, paired_speed, percentile_intervals
from pfm_bench.reports.variants import VariantsReport, draw_variants, variants_report, variants_table


def test_every_call_runs_once_a_round_after_its_warm_up() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    samples = measure(calls, rounds=6, warmup_rounds=2, pause_ms=0)
    assert order[:6] == list("abcabc")
    rounds = [order[i : i + 3] for i in range(6, len(order), 3)]
    assert len(rounds) == 6
    assert all(sorted(entry) == list("abc") for entry in rounds)
    assert len({tuple(entry) for entry in rounds}) > 1  # the order changes from round to round
    assert all(len(samples.latency_ms[name]) == len(samples.cpu_ms[name]) == 6 for name in "abc")


def test_time_asleep_is_not_cpu_time() -> None:
    samples = measure({"a": lambda: time.sleep(0.05)}, rounds=2, warmup_rounds=0, pause_ms=0)
    assert min(samples.latency_ms["a"]) >= 50
    assert all(cpu < wall for cpu, wall in zip(samples.cpu_ms["a"], samples.latency_ms["a"], strict=True))


def test_a_spent_budget_ends_the_run_after_the_least_number_of_rounds() -> None:
    samples = measure({"a": lambda: time.sleep(0.002)}, rounds=1000, budget_s=0, min_rounds=5, pause_ms=0)
    assert samples.rounds == 5
    assert samples.budget_was_spent


def test_percentiles_and_paired_ratios_come_from_the_raw_samples() -> None:
    drift = np.linspace(1, 3, 50)  # the machine slows down threefold during the run
    samples = Samples({"a": list(2 * drift), "b": list(drift)}, warmup_rounds=0, pause_ms=0)
    assert samples.percentiles("b").p50_ms == pytest.approx(np.median(drift))
    assert samples.percentiles("b").p99_ms == pytest.approx(np.percentile(drift, 99))
    assert list(samples.ratio("a", "b")) == ["wall"]
    assert samples.ratio("a", "b")["wall"].to_dict() == pytest.approx({"median": 2, "low": 2, "high": 2})


def test_the_interval_of_a_percentile_holds_it_and_closes_in_with_more_samples() -> None:
    few, many = (list(np.random.default_rng(0).exponential(size=count)) for count in (40, 4000))
    wide, narrow = percentile_intervals(few), percentile_intervals(many, draws=200)
    for name, q in (("p50_ms", 50), ("p90_ms", 90), ("p99_ms", 99)):
        assert wide[name][0] <= np.percentile(few, q) <= wide[name][1]
        assert narrow[name][1] - narrow[name][0] < wide[name][1] - wide[name][0]
        assert narrow[name] == pytest.approx([-np.log(1 - q / 100)] * 2, rel=0.15)  # of the distribution itself


def test_a_speed_is_paired_by_round_and_its_interval_holds_the_median() -> None:
    drift = np.linspace(1, 3, 40)
    assert paired_speed(list(drift), list(2 * drift)).to_dict() == pytest.approx({"median": 2, "low": 2, "high": 2})
    random = np.random.default_rng(0)
    times = np.exp(random.normal(0, 0.3, 40))
    speed = paired_speed(list(times), [3.0] * 40)
    assert speed.median == pytest.approx(np.median(3 / times))
    assert speed.low < speed.median < speed.high
    more = np.exp(random.normal(0, 0.3, 4000))
    narrow = paired_speed(list(more), [3.0] * 4000, draws=200)
    assert narrow.high - narrow.low < speed.high - speed.low  # more rounds, a closer interval


@dataclass
class Memory:
    """What is known of a variant here."""

    peak_memory_mib: float | None

    def to_dict(self) -> Json:
        return {"peak_memory_mib": self.peak_memory_mib}


def variants(device: str) -> VariantsReport:
    samples = Samples(
        {"plain": [4.0, 6.0], "fast": [2.0, 3.0]}, 1, 0.0, cpu_ms={"plain": [8.0, 8.0], "fast": [2.0, 2.0]}
    )
    facts = {"plain": Memory(None), "fast": Memory(12.0)}
    settings = {"device": device}
    return variants_report(samples, reference="plain", images_per_call=10, settings=settings, facts=facts)


def test_variants_stand_beside_their_reference(tmp_path: Path) -> None:
    report = variants("cpu")
    plain, fast = report.variants
    assert (plain.name, fast.name) == ("plain", "fast")
    assert fast.images_per_s == pytest.approx(10 / 0.0025)
    assert fast.speed["wall"] == Ratio(median=2, low=2, high=2)
    assert fast.speed["cpu"].median == pytest.approx(4)
    assert report.to_dict()["variants"][1]["speed_to_reference"]["cpu"]["median"] == 4  # type: ignore[index, call-overload]
    header, _, first, second = variants_table(report).splitlines()
    assert "by CPU time to plain" in header
    assert first.endswith("|  |")  # not measured
    assert "×2.00 (2.00–2.00) | ×4.00 (4.00–4.00) | 12 |" in second
    assert "CPU time" not in variants_table(variants("cuda"))
    draw_variants(report, tmp_path / "speeds.png", title="speeds")
    assert (tmp_path / "speeds.png").read_bytes().startswith(b"\x89PNG")


def test_memory_in_use_counts() -> None:
    before = peak_memory_mib()
    ballast = np.ones(2**25)  # 256 MiB
    assert peak_memory_mib() >= max(before, ballast.nbytes / 2**20)
