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
    assert times.most_rows(0.1, 32) == 4  # until something is known of others
    assert times.most_rows(0.1, 1) == 1
    times.add(4, 1.0)
    assert times.most_rows(0.1, 32) == 1


def test_a_pass_never_takes_less_than_nothing_and_more_rows_never_less_time() -> None:
    for times in (times_of((1, 1.0), (8, 0.1)), times_of((1, 0.01), (2, 10.0))):
        assert 0 <= times.expected(1) <= times.expected(2) <= times.expected(32)
    assert times_of((1, 1.0), (8, 0.1)).most_rows(0.25, 32) == 32  # rows add nothing


def test_the_latest_passes_count_most() -> None:
    times = times_of(*[(1, 0.1)] * 50, *[(1, 0.2)] * 100)
    assert times.expected(1) == pytest.approx(0.2, rel=0.01)


def test_a_pass_that_stood_still_is_forgotten_and_a_slower_machine_is_not() -> None:
    usual = [(1, 0.01)] * 50
    assert times_of(*usual, (1, 60.0)).expected(1) < 0.02
    assert times_of(*usual, *[(1, 1.0)] * 60).expected(1) == pytest.approx(1.0, rel=0.2)


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

    def __init__(self, clock: Clock, row_seconds: float = 1.0, pass_seconds: float = 0.0) -> None:
        super().__init__()
        self.clock = clock
        self.row_seconds = row_seconds
        self.pass_seconds = pass_seconds
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
        self.clock.now = begun + self.pass_seconds + count * self.row_seconds
        return super().predict_prepared(batches, count, chosen)

    def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        self.clock.now += self.pass_seconds + len(sets) * self.row_seconds
        return super().predict_each_prepared(batches, sets)


def engine_of(
    answerer: Timed, *, answer_within: float | None, max_batch: int = 1, shares_passes: bool = True
) -> Engine:
    engine = Engine(
        answerer, mixes_sets=True, shares_passes=shares_passes, max_batch=max_batch, max_queue=64,
        answer_within=answer_within, clock=answerer.clock,
    )  # fmt: skip
    answerer.engine = engine
    return engine


def test_whoever_would_wait_too_long_is_refused_at_once_and_told_when_to_come_back() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, answer_within=2.5)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()  # a second a row is known from here on
    answerer.meanwhile = [0.1, 0.2, 0.3, 0.9]
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    first, second, third, fourth = answerer.come
    assert isinstance(first, Future)  # 0.9 s until its pass, and that pass
    assert isinstance(second, RefusedError)  # 0.8 s, the pass of the first, and its own
    assert isinstance(third, RefusedError)
    assert isinstance(fourth, Future)  # 0.1 s, and two passes
    assert (second.status, second.why, second.retry_after) == (429, "busy", 2)
    engine.step()
    assert first.result(0).labels == ["red"]


def test_what_waited_longer_than_expected_is_refused_when_its_pass_would_begin() -> None:
    answerer = Timed(Clock(), row_seconds=0.1)
    engine = engine_of(answerer, answer_within=1.5)
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


def test_who_waits_longest_is_refused_where_the_pass_that_all_share_would_end_too_late_for_it() -> None:
    answerer = Timed(Clock(), row_seconds=0.1)
    engine = engine_of(answerer, answer_within=0.5, max_batch=4)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    begun = answerer.clock.now
    engine.submit([rows()], 1, RED, timeout=60)  # finds a thread free
    old = engine.submit([rows()], 1, RED, timeout=60)
    answerer.clock.now = begun + 0.35
    new = engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    error = old.exception(0)  # 0.35 s, and a pass of two rows
    assert isinstance(error, RefusedError)
    assert new.result(0).labels == ["red"]


def test_who_found_a_free_thread_is_answered_however_long_that_took_to_wake() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, answer_within=0.5)
    future = engine.submit([rows()], 1, RED, timeout=60)
    answerer.clock.now = 3.0
    engine.step()
    assert future.result(0).labels == ["red"]


def test_without_a_limit_what_cannot_be_answered_in_its_own_time_is_refused_at_once() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, answer_within=None)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(3):
        engine.submit([rows()], 1, RED, timeout=60)
    with pytest.raises(RefusedError) as caught:
        engine.submit([rows()], 1, RED, timeout=2)
    assert caught.value.status == 429
    engine.submit([rows()], 1, RED, timeout=4.5)


def test_an_idle_engine_refuses_nobody() -> None:
    answerer = Timed(Clock())
    engine = engine_of(answerer, answer_within=0.001)
    for _ in range(3):
        future = engine.submit([rows()], 1, RED, timeout=60)
        engine.step()
        assert future.result(0).labels == ["red"]


def test_rows_that_share_a_pass_do_not_wait_for_each_other() -> None:
    answerer = Timed(Clock(), row_seconds=0.01)
    engine = engine_of(answerer, answer_within=0.045, max_batch=4)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(4):
        engine.submit([rows()], 1, RED, timeout=60)
    with pytest.raises(RefusedError):
        engine.submit([rows()], 1, RED, timeout=60)  # there is a whole pass ahead of its own
    assert engine.step()
    assert len(answerer.passes[-1]) == 4


def test_where_a_pass_is_slow_whatever_is_in_it_passes_become_large() -> None:
    answerer = Timed(Clock(), row_seconds=0.01, pass_seconds=0.7)
    engine = engine_of(answerer, answer_within=None, max_batch=8)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(8 + 2 + 1):
        engine.submit([rows()], 1, RED, timeout=60)
    while engine.step():
        pass
    assert [len(each) for each in answerer.passes] == [1, 2, 8, 1]


def test_where_no_pass_is_shared_who_waits_is_ahead_with_its_own_rows() -> None:
    answerer = Timed(Clock(), row_seconds=0.0, pass_seconds=0.01)
    engine = engine_of(answerer, answer_within=0.045, max_batch=8, shares_passes=False)
    engine.submit([rows()], 1, RED, timeout=60)
    engine.step()
    for _ in range(4):
        engine.submit([rows()], 1, RED, timeout=60)  # at most three passes of 0.01 s are ahead, and their own
    with pytest.raises(RefusedError):
        engine.submit([rows()], 1, RED, timeout=60)


class Held(Recorder):
    """Says when a pass begins, which then waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.may_end = threading.Event()

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        self.begun.release()
        self.may_end.wait(60)
        return super().predict_prepared(batches, count, chosen)


def test_requests_that_come_together_are_begun_by_all_threads_that_are_free() -> None:
    held = Held()
    engine = Engine(held, mixes_sets=True, max_batch=1, max_queue=64)
    engine.start(2)
    answers: list[Future[Prediction]] = [Future(), Future()]
    jobs = [engine.job(each, [rows()], 1, RED, timeout=60, post=lambda give: give()) for each in answers]
    assert engine.submit_all(jobs) == []
    both = [held.begun.acquire(timeout=60) for _ in jobs]
    held.may_end.set()
    assert all(both)
    assert [each.result(60).labels for each in answers] == [["red"]] * 2
    engine.close(60)


def test_threads_that_wait_take_over_from_those_that_compute() -> None:
    """With two passes at a time a request waits for the first that ends, and for none where a thread is free."""

    held, clock = Held(), Clock()
    engine = Engine(held, mixes_sets=True, max_batch=1, max_queue=64, answer_within=1.5, clock=clock)
    engine._times.add(1, 1.0)
    engine.start(2)
    running = [engine.submit([rows()], 1, RED, timeout=60)]
    assert held.begun.acquire(timeout=60)
    running.append(engine.submit([rows()], 1, RED, timeout=60))  # the other thread is free
    assert held.begun.acquire(timeout=60)
    with pytest.raises(RefusedError):
        engine.submit([rows()], 1, RED, timeout=60)  # a second until the first of them ends, and its own
    clock.now = 0.6
    running.append(engine.submit([rows()], 1, RED, timeout=60))  # 0.4 s, and a pass
    held.may_end.set()
    assert [each.result(60).labels for each in running] == [["red"]] * 3
    engine.close(60)
