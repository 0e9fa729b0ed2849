"""Scenarios on a clock of our own: arrivals, queueing, the rate that a known service can take."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pfm.errors import ConfigError
from pfm_bench.scenarios.offline import offline
from pfm_bench.scenarios.server import answer_arrivals, poisson_arrivals, server
from pfm_bench.scenarios.single_stream import single_stream
from pfm_bench.scenarios.time_to_forget import time_to_forget
from pfm_export.serving.bank import BANK
from pfm_export.serving.bundle import Bundle


class FakeClock:
    """Time passes only where somebody says so."""

    def __init__(self) -> None:
        self.time_s = 100.0

    def now(self) -> float:
        return self.time_s

    def sleep(self, seconds: float) -> None:
        self.time_s += seconds

    def working(self, *durations_ms: float) -> Callable[[], None]:
        """A call that takes these times in turn."""
        calls = 0

        def call() -> None:
            nonlocal calls
            self.time_s += durations_ms[calls % len(durations_ms)] / 1000
            calls += 1

        return call


def test_arrivals_have_the_stated_mean_and_the_spread_of_a_poisson_process() -> None:
    arrivals_s = poisson_arrivals(20_000, rate=50.0, seed=3)
    gaps = np.diff(arrivals_s, prepend=0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)  # standard error 0.7 %
    assert gaps.std() == pytest.approx(1 / 50, rel=0.05)
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.03
    counts = np.histogram(arrivals_s, bins=np.arange(0, int(arrivals_s[-1])))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.25)
    np.testing.assert_array_equal(poisson_arrivals(9, rate=25.0, seed=3), 2 * arrivals_s[:9])  # the same pattern
    assert poisson_arrivals(1, rate=1.0, seed=4) != poisson_arrivals(1, rate=1.0, seed=3)


def test_a_latency_runs_from_the_arrival_and_holds_the_wait_in_the_queue() -> None:
    clock = FakeClock()
    arrivals_s = np.array([0.0, 0.01, 0.02, 0.5])
    latency_ms, late = answer_arrivals(clock.working(100), arrivals_s, bound_ms=250, clock=clock)
    assert late == 1  # of four none may be late, so that it gave up
    assert latency_ms == pytest.approx([100, 190, 280])
    latency_ms, late = answer_arrivals(clock.working(100), arrivals_s, bound_ms=300, clock=clock)
    assert late == 0
    assert latency_ms == pytest.approx([100, 190, 280, 100])  # the last found an empty queue


def waits_at_most(wait: float, rate: float, service: float) -> float:
    """Crommelin's formula: the share of arrivals at an M/D/1 queue that wait no longer than `wait`."""
    terms = (
        (-rate * (wait - k * service)) ** k / math.factorial(k) * math.exp(rate * (wait - k * service))
        for k in range(int(wait / service + 1e-9) + 1)
    )
    return (1 - rate * service) * sum(terms)


@pytest.mark.parametrize("bound_ms", [30.0, 60.0])
def test_the_server_scenario_finds_the_rate_that_queueing_theory_gives(bound_ms: float) -> None:
    clock = FakeClock()
    service_ms = 10.0
    found = server(clock.working(service_ms), bound_ms=bound_ms, seconds=1e9, max_queries=40_000, clock=clock)
    rates = np.linspace(1, 99, 2000)
    shares = [waits_at_most((bound_ms - service_ms) / 1000, rate, service_ms / 1000) for rate in rates]
    expected = rates[np.array(shares) >= 0.99].max()
    assert found.queries_per_s == pytest.approx(expected, rel=0.03)  # 0.8 % of the capacity, and the draws
    assert found.capacity_per_s == pytest.approx(100)
    assert found.percentiles is not None
    assert found.percentiles.p99_ms <= bound_ms
    assert len(found.latency_ms) == found.queries == 40_000
    assert max(entry.rate for entry in found.tried if entry.is_within) == found.queries_per_s
    assert min(entry.rate for entry in found.tried if not entry.is_within) > found.queries_per_s
    assert f"within {bound_ms:.1f} ms" in found.describe()


def test_a_bound_below_the_service_time_is_met_at_no_rate() -> None:
    clock = FakeClock()
    found = server(clock.working(10), bound_ms=9, seconds=10, clock=clock)
    assert (found.queries_per_s, found.latency_ms, found.tried, found.percentiles) == (0.0, [], (), None)
    assert "p99_ms" not in found.to_dict()


def test_single_stream_keeps_every_latency_for_as_long_as_it_was_told() -> None:
    clock = FakeClock()
    found = single_stream(clock.working(50, 10, 10, 10, 90), seconds=1.0, clock=clock)
    assert sum(found.latency_ms) == pytest.approx(1000, abs=90)
    assert found.percentiles.p90_ms == pytest.approx(90)
    assert single_stream(clock.working(500), seconds=1.0, clock=clock).queries == 10  # but never fewer


def test_offline_finds_the_batch_size_with_the_best_throughput() -> None:
    clock = FakeClock()
    calls = {1: clock.working(10), 4: clock.working(20), 16: clock.working(160)}
    found = offline(calls, seconds=3.0, clock=clock)
    assert (found.best.batch_size, found.best.images_per_s) == (4, pytest.approx(200))
    assert [entry.images_per_s for entry in found.batches] == pytest.approx([100, 200, 100])
    assert found.to_dict()["batch_size"] == 4


@pytest.mark.parametrize("name", ["bundle", "uint8_bundle"])
def test_forgetting_is_timed_on_copies_and_the_bundle_stays_whole(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(name)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    workplace = tmp_path / "work"
    workplace.mkdir()
    found = time_to_forget(folder, workplace, repeats=5)  # four classes: a second copy is needed
    assert len(found.latency_ms) == len(found.erase_ms) == len(found.predict_ms) == 5
    assert all(total > erase > 0 for total, erase in zip(found.latency_ms, found.erase_ms, strict=True))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert len(before[BANK]) > 0
    assert list(workplace.iterdir()) == []


def test_a_bundle_with_one_class_has_nothing_to_forget(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    Bundle.open(folder).erase(["red", "green", "blue"])
    with pytest.raises(ConfigError, match="has one class only"):
        time_to_forget(folder, tmp_path)
