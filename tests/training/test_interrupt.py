"""A request to stop: at once in one process; among several said at one step, read at the next, and obeyed together."""

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pfm.training import interrupt
from pfm.training.interrupt import StopRequest

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["pfm.training.interrupt"])


def test_a_signal_asks_once_and_kills_only_when_repeated_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    monkeypatch.setattr(interrupt, "PATIENCE_S", float("inf"))  # however long it takes from one to the next
    with StopRequest() as stop:
        assert stop.agreed() == 0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # a launcher handing on what the whole group received
        assert stop.agreed() == signal.SIGINT
        monkeypatch.setattr(interrupt, "PATIENCE_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


class Wire:
    """Stands in for the other processes: what is posted, waited for and answered, in order.

    Args:
        others: their highest value at each post.
    """

    def __init__(self, others: list[int]) -> None:
        self.others = iter(others)
        self.calls: list[str] = []

    def all_reduce(self, tensor: torch.Tensor, *, async_op: bool, **_: Any) -> "Work":
        assert async_op
        self.calls.append(f"post {int(tensor)}")
        return Work(self, tensor, next(self.others))


class Work:
    """One operation of the wire; its answer is there once it was waited for."""

    def __init__(self, wire: Wire, tensor: torch.Tensor, other: int) -> None:
        self.wire, self.tensor, self.other = wire, tensor, other

    def wait(self, *_: object) -> None:
        self.wire.calls.append("wait")
        self.tensor.fill_(max(int(self.tensor), self.other))


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    made = Wire([0, 0, 15, 0])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "new_group", lambda **_: object())
    monkeypatch.setattr(dist, "all_reduce", made.all_reduce)
    return made


def test_what_is_said_at_one_step_is_read_at_the_next(wire: Wire) -> None:
    with StopRequest() as stop:
        assert [stop.agreed() for _ in range(4)] == [0, 0, 0, 15]
    # never two on the way, and none is left behind or waited for twice
    assert wire.calls == ["post 0", "wait", "post 0", "wait", "post 0", "wait"]


def test_what_is_on_the_way_is_waited_for_when_the_run_ends(wire: Wire) -> None:
    with StopRequest() as stop:
        assert stop.agreed() == 0
        stop.received = 2
        assert stop.agreed() == 0  # it was raised after the first was posted
    assert wire.calls == ["post 0", "wait", "post 2", "wait"]


def test_a_run_that_fails_waits_only_for_a_while(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[tuple[object, ...]] = []

    def give_up(_: Work, *limit: object) -> None:
        limits.append(limit)
        raise RuntimeError("timed out")

    monkeypatch.setattr(Work, "wait", give_up)

    def fail() -> None:
        with StopRequest() as stop:
            stop.agreed()
            raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        fail()
    assert [len(limit) for limit in limits] == [1]


def take_steps(rank: int, folder: str) -> None:
    """Ten steps of one of two processes; the second is told to stop in its fourth."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    answers = []
    with StopRequest() as stop:
        for step in range(10):
            if (rank, step) == (1, 3):
                os.kill(os.getpid(), signal.SIGTERM)
            answers.append(stop.agreed())
            if answers[-1]:
                break
    dist.barrier()
    dist.destroy_process_group()
    Path(folder, f"{rank}.txt").write_text(repr(answers))


@pytest.mark.slow
def test_two_processes_leave_after_the_same_step_though_one_was_told(tmp_path: Path) -> None:
    children = [FORKSERVER.Process(target=take_steps, args=(rank, str(tmp_path))) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(600)
        assert child.exitcode == 0
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["[0, 0, 0, 0, 15]"] * 2
