"""Decoding processes: order, errors, and that none outlives the process that started it."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfm.data.decoding import ImageDecoding
from pfm.data.image_jobs import ImageRow
from pfm.data.workers import Workers, batches, decode_many
from pfm.errors import DataError

JOB = ImageRow(ImageDecoding(size=4), 3)


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 5), (number % 256, number // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pool() -> Iterator[Workers]:
    with Workers(2, patience_s=-1) as workers:
        yield workers


def test_outcomes_come_in_order_and_are_those_of_one_process(pool: Workers) -> None:
    sources = [png(number) for number in range(300)]
    sources[77] = b"no image"
    alone = [outcome for _, outcomes in Workers(0).map(JOB, batches(sources, 7)) for outcome in outcomes]
    shared = [outcome for _, outcomes in pool.map(JOB, batches(sources, 7)) for outcome in outcomes]
    assert len(pool._workers) == 2
    assert [outcome.reason for outcome in shared] == [outcome.reason for outcome in alone]
    assert alone[77].value is None
    for number, (one, other) in enumerate(zip(alone, shared, strict=True)):
        assert number == 77 or np.array_equal(one.value, other.value)  # type: ignore[arg-type]
        assert number == 77 or one.value[:, 0, 0].tolist() == [number % 256, number // 256, 7]  # type: ignore[index]


def test_work_that_is_abandoned_leaves_workers_ready_for_more(pool: Workers) -> None:
    endless = ([png(number)] for number in range(10**9))
    found = pool.map(JOB, endless)
    next(found)
    found.close()  # type: ignore[attr-defined]  # a generator
    assert len(list(pool.map(JOB, [[png(3)]]))) == 1


def test_a_failure_of_ours_in_a_worker_is_not_taken_for_a_bad_file(pool: Workers) -> None:
    with pytest.raises(RuntimeError, match=r"a decoding process failed:[^§]*AttributeError"):
        list(pool.map(JOB, [[{"neither": "path nor bytes"}]]))


def test_a_killed_worker_is_an_error_that_says_where_it_was(tmp_path: Path) -> None:
    slow = tmp_path / "pipe.png"
    os.mkfifo(slow)  # who opens it waits for ever
    with Workers(1, patience_s=-1) as workers:
        found = workers.map(JOB, [[png(1)], [slow]])
        next(found)
        os.kill(workers._workers[0]._process.pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"was killed by signal 9 at work on .*pipe\.png.*fewer --data_workers"):
            next(found)


def test_many_files_are_decoded_without_all_of_them_in_memory() -> None:
    asked = 0

    def sources() -> Iterator[bytes]:
        nonlocal asked
        for number in range(400):
            asked += 1
            yield png(number)

    found = decode_many(sources(), JOB, workers=0, batch_size=10)
    (_, outcome), *_ = next(found)
    assert outcome.value is not None
    assert asked == 10


def test_workers_end_with_a_process_that_is_killed() -> None:
    code = (
        "import time; from pfm.data.workers import *; from test_workers import JOB, png\n"
        "pool = Workers(2, patience_s=-1); list(pool.map(JOB, [[png(1)], [png(2)]]))\n"
        "print(*(worker._process.pid for worker in pool._workers), flush=True); time.sleep(3600)"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert parent.stdout is not None
    with parent.stdout:
        numbers = [int(number) for number in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    assert len(numbers) == 2
    for _ in range(6000):
        if not any(is_alive(number) for number in numbers):
            return
        time.sleep(0.05)
    raise AssertionError("a worker outlives its parent")


def is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
