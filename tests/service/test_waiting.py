"""What a pass should take is learnt from those before, and whoever would wait too long is refused: at once, or at the
latest when its pass would begin."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import pytest

from making.served import Recorder, rows
from pfm_export.service.engine import Engine
from pfm_export.service.pass_times import FIRST_GUESS, PassTimes
from pfm_export.service.refusals import RefusedError
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch

RED = ActiveSet(("red",))


def times_of(*passes: tuple[int, float]) -> PassTimes:
    times = PassTimes()
    for rows_, seconds in passes:
        times.add(rows_, seconds)
    return times


def test_what_a_pass_costs_and_what_a_row_adds_are_told_apart() -> None:
    times = times_of(*[(rows_, 0.7 + 0.25 * rows_) for rows_ in (1, 4, 2, 8, 1)])
    assert times.expected(1) == pytest.approx(0.95)
    assert times.expected(32) == pytest.approx(8.7)
    assert times.most_rows(1.0, 32) == 4


def test_passes_of_one_size_are_taken_for_their_rows() -> None:
    times = times_of((2, 0.5), (2, 0.5), (2, 0.5))
    assert times.expected(4) == pytest.approx(1.0)
    assert times.most_rows(0.1, 32) == 1


def test_a_pass_never_takes_less_than_nothing_and_more_rows_never_less_time() -> None:
    for times in (times_of((1, 1.0), (8, 0.1)), times_of((1, 0.01), (2, 10.0))):
        assert 0 <= times.expected(1) <= times.expected(2) <= times.expected(32)
    assert times_of((1, 1.0), (8, 0.1)).most_rows(0.25, 32) == 32  # rows add nothing


def test_the_latest_passes_count_most() -> None:
    times = times_of(*[(1, 0.1)] * 50, *[(1, 0.2)] * 100)
    assert times.expected(1) == pytest.approx(0.2, rel=0.01)


def test_before_a_pass_was_measured_there_is_a_guess() -> None:
    times = PassTimes()
    assert not times.is_known
    assert times.expected(3) == pytest.approx(3 * FIRST_GUESS)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed(Recorder):
    """Its passes take a second a row unless told otherwise, and let requests in while they run."""

    def __init__(self, clock: Clock, row_seconds: float = 1.0) -> None:
        super().__init__()
        self.clock = clock
        self.row_seconds = row_seconds
        self.meanwhile: list[float] = []  # seconds after the begin of a pass at which a request comes
        self.come: list[Future[Prediction] | RefusedError] = []
        self.engine: Engine | None = None

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        begun = self.clock.now
        times, self.meanwhile = self.meanwhile, []
        for after in times:
            self.clock.now = begun + after
            assert self.engine is not None
            try:
                self.come.append(self.engine.submit([rows()], 1, RED, timeout=60))
            except RefusedError as error:
                self.come.append(error)
        self.clock.now = begun + count * self.row_seconds
        return super().predict_prepared(batches, count, chosen)


def engine_of(answerer: Timed, *, max_wait: float | None, max_batch: int = 1) -> Engine:
    engine = Engine(
        answerer, mixes_sets=True, max_batch=max_batch, max_queue=64, max_wait=max_wait, clock=answerer.clock
    )
    answerer.engine = engine
    return engine


def test_whoever_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, max_wait=1.5)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()  # a second a row is known from here on
    answerer.meanwhile = [0.1, 0.2, 0.3, 0.9]
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    first, second, third, fourth = answerer.come
    assert isinstance(first, Future)  # 0.9 s until its pass
    assert isinstance(second, RefusedError)  # 0.8 s, and the pass of the first
    assert isinstance(third, RefusedError)
    assert isinstance(fourth, Future)  # 0.1 s, and a pass
    assert (second.status, second.why, second.retry_after) == (429, "busy", 2)
    engine.step()
    assert first.result(0).labels == ["red"]


def test_what_waited_longer_than_expected_is_refused_when_its_pass_would_begin() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, max_wait=1.5)
    posts: list[str] = []

    def post(give: Callable[[], None]) -> None:
        posts.append("here")
        give()

    engine.submit([rows()], 1, RED, timeout=60)
    tired = [engine.submit([rows()], 1, RED, timeout=60, post=post) for _ in range(2)]
    answerer.clock.now = 1.4
    in_time = engine.submit([rows()], 1, RED, timeout=60)
    answerer.clock.now = 1.6
    while engine.step():
        pass
    for each in tired:
        error = each.exception(0)
        assert isinstance(error, RefusedError)
        assert error.status == 429
    assert posts == ["here"]  # one wake-up for both
    assert in_time.result(0).labels == ["red"]


def test_who_found_a_free_thread_is_answered_however_long_that_took_to_wake() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, max_wait=0.5)
    future = engine.submit([rows()], 1, RED, timeout=60)
    answerer.clock.now = 3.0
    engine.step()
    assert future.result(0).labels == ["red"]


def test_without_a_limit_what_cannot_be_answered_in_its_own_time_is_refused_at_once() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, max_wait=None)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(3):
        engine.submit([rows()], 1, RED, timeout=60)
    with pytest.raises(RefusedError) as caught:
        engine.submit([rows()], 1, RED, timeout=2)
    assert caught.value.status == 429
    engine.submit([rows()], 1, RED, timeout=4)


def test_an_idle_engine_refuses_nobody() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, max_wait=0.001)
    for _ in range(3):
        future = engine.submit([rows()], 1, RED, timeout=60)
        engine.step()
        assert future.result(0).labels == ["red"]


def test_rows_that_share_a_pass_do_not_wait_for_each_other() -> None:
    answerer = Timed(Clock(), row_seconds=0.01)
    engine = engine_of(answerer, max_wait=0.005, max_batch=4)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(4):
        engine.submit([rows()], 1, RED, timeout=60)
    with pytest.raises(RefusedError):
        engine.submit([rows()], 1, RED, timeout=60)  # there is a whole pass ahead
    assert engine.step()
    assert len(answerer.passes[-1]) == 4


def test_threads_that_wait_take_over_from_those_that_compute() -> None:
    """With two passes at a time a request waits for the first that ends, and for none where a thread is free."""

    class Held(Recorder):
        begun = threading.Semaphore(0)
        may_end = threading.Event()

        def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
            self.begun.release()
            self.may_end.wait(60)
            return super().predict_prepared(batches, count, chosen)

    clock = Clock()
    engine = Engine(Held(), mixes_sets=True, max_batch=1, max_queue=64, max_wait=0.5, clock=clock)
    engine._times.add(1, 1.0)
    engine.start(2)
    running = [engine.submit([rows()], 1, RED, timeout=60)]
    assert Held.begun.acquire(timeout=60)
    running.append(engine.submit([rows()], 1, RED, timeout=60))  # the other thread is free
    assert Held.begun.acquire(timeout=60)
    with pytest.raises(RefusedError):
        engine.submit([rows()], 1, RED, timeout=60)  # a second until the first of them ends
    clock.now = 0.6
    running.append(engine.submit([rows()], 1, RED, timeout=60))  # 0.4 s
    Held.may_end.set()
    assert [each.result(60).labels for each in running] == [["red"]] * 3
    engine.close(60)
