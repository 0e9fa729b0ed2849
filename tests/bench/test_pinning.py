"""Which CPUs and processes a measurement is of, and how a queue is simulated."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ideal_queue
import serve_load
from pfm.errors import ConfigError
from pfm_bench.measuring.pinning import on_cpus, read_cpus, siblings, stolen_ms
from pfm_bench.measuring.served import OwnServer
from pfm_bench.measuring.worker_ports import children

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="affinity is Linux's")


def test_cpus_are_read_as_taskset_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 3, 4})
    assert read_cpus("0,2-4") == (0, 2, 3, 4)
    assert read_cpus("4,2-3,2") == (4, 2, 3)
    assert read_cpus("") == ()
    with pytest.raises(ConfigError, match="is not a list of CPUs"):
        read_cpus("two")
    with pytest.raises(ConfigError, match=r"CPUs \[1\] of '0-1' are not for this process"):
        read_cpus("0-1")


def test_cpus_are_as_before_when_a_block_ends() -> None:
    before = os.sched_getaffinity(0)
    first = min(before)
    with on_cpus([first]):
        assert os.sched_getaffinity(0) == {first}
    assert os.sched_getaffinity(0) == before
    assert stolen_ms([first]) >= 0
    assert set(siblings([first])) <= {str(first)}


def test_the_memory_of_a_server_is_that_of_each_kind_of_process_and_of_all() -> None:
    # a worker with a clerk beside it, until its input ends; the parent is this process
    command = ["sh", "-c", "exec 3<&0; cat <&3 & echo; wait"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        assert len(children(worker.pid)) == 1
        assert worker.pid in children(os.getpid())
        held = OwnServer(address="http://localhost:1", pid=os.getpid(), workers=(worker.pid,)).memory_mib()
        worker.communicate()
    assert 0 < held.worker < held.parent
    assert 0 < held.clerk < held.parent
    assert 0 < held.together < held.worker + held.clerk + held.parent


@pytest.mark.parametrize(
    ("given", "what"),
    [(["--server_cpus", "0"], "load_apart takes one of the server's CPUs"), (["--only", "memory,all"], "--only all: ")],
)
def test_a_section_that_cannot_be_measured_is_one_line_before_anything_is(
    given: list[str], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(sys, "argv", ["serve_load.py", "--out", str(tmp_path / "out.json"), *given])
    with pytest.raises(SystemExit, match="2"):
        serve_load.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"serve_load.py: {what}")


def test_the_queue_of_a_file_whose_rate_was_given_names_no_capacity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passes = [{"rows": rows, "ms": 2 + 0.5 * rows} for rows in (1.0, 4.0)]
    phase = {"asked_per_second": 100.0, "arriving_seconds": 2.0}
    section = {
        "capacity_per_second": None, "mean_passes": passes, "phases": [phase], "p50_alone_ms": 3.0, "p99_ms": 9.0,
        "changes": [{"at": 1.0}], "largest_pass": {"rows": 4, "ms": 4.0},
    }  # fmt: skip
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"sections": {"load": section}}))
    monkeypatch.setattr(ideal_queue, "REQUESTS", 500)
    for more, said in (
        ([], "measured: p99 9.0 ms at 100.0"),
        (["--pause", "8"], "pauses of 8 ms at 1 changes, 2 s at 100"),
        (["--within", "9"], "answers within 9 ms, 5 s at 100"),
    ):
        monkeypatch.setattr(sys, "argv", ["ideal_queue.py", str(file), *more])
        ideal_queue.main()
        assert said in capsys.readouterr().out


def test_a_simulated_queue_is_the_one_that_theory_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ideal_queue, "REQUESTS", 20_000)
    one_by_one = ideal_queue.simulate(0.0, 1.0, 500, most=1)  # M/D/1 at a load of a half
    assert one_by_one.rows == 1
    assert one_by_one.p50_ms == pytest.approx(1, abs=0.05)  # half of them find nobody
    assert one_by_one.p99_ms == pytest.approx(4.3, rel=0.15)
    assert ideal_queue.simulate(5.0, 0.0, 1000).rows == pytest.approx(5, rel=0.1)  # a pass takes what came in the last
    passes = [{"rows": rows, "ms": 2 + 0.5 * rows} for rows in (1.0, 4.0, 30.0)]
    assert np.allclose(ideal_queue.fit(passes), (2, 0.5))


def test_a_simulated_queue_grows_where_cores_are_slower_for_a_while_and_refuses_what_has_no_room() -> None:
    even = ideal_queue.simulate_uneven(0.0, 1.0, 800, ideal_queue.even, 10)
    slower = ideal_queue.simulate_uneven(0.0, 1.0, 800, lambda now, ms: now + ms * (1.3 if now < 5000 else 0.7), 10)
    assert even.refused == 0
    assert even.p99_ms < 30
    assert slower.p99_ms > 100  # 31 too many a second, as long as it is slow
    assert slower.refused == 0
    assert ideal_queue.simulate_uneven(0.0, 1.0, 2000, ideal_queue.even, 10).refused == pytest.approx(0.5, abs=0.03)


def test_a_simulated_queue_that_is_bounded_refuses_whom_it_would_answer_too_late() -> None:
    loss = ideal_queue.simulate_uneven(0.0, 1.0, 800, ideal_queue.even, 25, within=1.0, most=1)
    assert loss.refused == pytest.approx(0.8 / 1.8, abs=0.02)  # served at once or not at all: Erlang's B
    assert loss.p99_ms == pytest.approx(1.0)
    bounded = ideal_queue.simulate_uneven(0.0, 1.0, 800, ideal_queue.even, 25, within=4.0, most=1)
    assert bounded.p99_ms <= 4
    assert 0.01 < bounded.refused < 0.1


def test_a_pass_of_a_simulated_queue_waits_for_the_end_of_a_pause() -> None:
    ends = ideal_queue.paused([0.1, 0.2], 8)
    assert ends(50, 2) == 52
    assert ends(99, 2) == 109  # it begins meanwhile
    assert ends(103, 2) == 110  # it had begun
    assert ends(199, 2) == 209
