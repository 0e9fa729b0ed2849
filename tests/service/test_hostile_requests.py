"""Five hundred requests that nobody should send: each is refused in one line, and the server goes on as before."""

import json
from pathlib import Path

import pytest

from pfm_bench.scenarios.malformed import COUNT, requests
from pfm_bench.scenarios.malformed_run import MOST_MIB, MOST_MS, Cost, body_of, send_all


@pytest.mark.slow(seconds=90)
def test_five_hundred_malformed_requests_are_refused_in_one_line_each_and_cost_little(tmp_path: Path) -> None:
    found = send_all(requests(), tmp_path)
    assert len(found.each) == COUNT
    for cost in found.each:
        check(cost)
    assert found.is_unharmed
    assert "Traceback" not in found.log
    log = [json.loads(line) for line in found.log.splitlines() if line.startswith("{")]  # libtiff writes there as well
    assert [line for line in log if line["event"] in ("bug", "worker ended") or "error" in line] == []
    costliest = sorted(found.each, key=lambda cost: -cost.cpu_ms)[0]
    assert costliest.cpu_ms < 2 * MOST_MS, costliest.request.name  # cores that others use as well compute half as fast
    largest = sorted(found.each, key=lambda cost: -cost.peak_mib)[0]
    assert largest.peak_mib < MOST_MIB, largest.request.name


def check(cost: Cost) -> None:
    """A status that blames the client, one line, no traceback; or nothing, where the client said nothing whole."""
    name = cost.request.name
    assert b"Traceback" not in cost.answer, name
    assert cost.status or not cost.answer, name
    assert cost.status < 500 or cost.status == 504, (name, cost.answer)  # asked to answer at once, it may not
    if cost.status >= 400:
        body, _ = body_of(cost.answer)
        assert b"\n" not in body, name
        assert not body or list(json.loads(body)) == ["error"], (name, body)  # HEAD has none
