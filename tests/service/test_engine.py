"""Requests of different clients are gathered into passes; none waits for ever, none harms another."""

import shutil
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from making.served import PARAMS, Recorder, answer, rows
from pfm.errors import ClassNameError, DataError, DeviceError
from pfm_export.service.engine import Engine
from pfm_export.service.refusals import RefusedError
from pfm_export.service.warming import warm_up
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.kinds import Batch
from pfm_export.serving.session import PromptSession

RED, GREEN = ActiveSet(("red",)), ActiveSet(("green",))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def engine_of(answerer: Recorder, *, mixes_sets: bool = True, clock: Clock | None = None) -> Engine:
    return Engine(answerer, mixes_sets=mixes_sets, max_batch=4, max_queue=8, clock=clock or Clock())


def refusal(future: "Future[Prediction]") -> RefusedError:
    error = future.exception(0)
    assert isinstance(error, RefusedError)
    return error


def test_requests_with_different_sets_share_one_pass() -> None:
    answerer = Recorder()
    engine = engine_of(answerer)
    futures = [engine.submit([rows(count)], count, chosen, timeout=1) for count, chosen in ((1, RED), (2, GREEN))]
    assert engine.step()
    assert answerer.passes == [[RED, GREEN, GREEN]]
    assert [future.result(0).labels for future in futures] == [["red"], ["green", "green"]]
    assert not engine.step()


def test_a_graph_of_one_set_takes_one_set_at_a_time_oldest_first() -> None:
    answerer = Recorder()
    engine = engine_of(answerer, mixes_sets=False)
    for chosen in (RED, GREEN, RED, GREEN):
        engine.submit([rows()], 1, chosen, timeout=1)
    while engine.step():
        pass
    assert answerer.passes == [[RED, RED], [GREEN, GREEN]]


def test_requests_whose_answers_would_move_with_their_neighbours_are_never_together() -> None:
    answerer = Recorder()
    engine = Engine(answerer, mixes_sets=True, shares_passes=False, max_batch=4, max_queue=8)
    for count in (1, 2, 1):
        engine.submit([rows(count)], count, RED, timeout=1)
    while engine.step():
        pass
    assert [len(sets) for sets in answerer.passes] == [1, 2, 1]


def test_the_answers_of_a_pass_are_handed_over_by_one_call_for_each_place_where_they_are_waited_for() -> None:
    calls: list[str] = []

    def here(give: Callable[[], None]) -> None:
        calls.append("here")
        give()

    def closed(_: Callable[[], None]) -> None:
        calls.append("closed")
        raise RuntimeError("the loop is closed")

    engine = engine_of(Recorder())
    futures = [engine.submit([rows()], 1, RED, timeout=1, post=post) for post in (here, closed, here, here)]
    engine.step()
    assert calls == ["here", "closed"]
    assert all(future.result(0).labels == ["red"] for future in futures)


def test_a_pass_has_no_more_rows_than_it_may_and_inputs_of_one_shape() -> None:
    answerer = Recorder()
    engine = engine_of(answerer)
    for batch in (rows(3), rows(2), rows(1), rows(1, (5,)), rows(1, dtype=np.uint8)):
        engine.submit([batch], len(batch.inputs), RED, timeout=1)
    while engine.step():
        pass
    assert [len(sets) for sets in answerer.passes] == [4, 2, 1, 1]


def test_rows_that_take_long_take_no_company() -> None:
    clock = Clock()

    class Slow(Recorder):
        def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
            clock.now += 60.0 * count
            return super().predict_prepared(batches, count, chosen)

        def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
            clock.now += 60.0 * len(sets)
            return super().predict_each_prepared(batches, sets)

    answerer = Slow()
    engine = engine_of(answerer, clock=clock)
    for _ in range(3):
        engine.submit([rows()], 1, RED, timeout=1000)
        engine.step()
    for _ in range(3):
        engine.submit([rows()], 1, RED, timeout=1000)
    engine.submit([rows(2)], 2, RED, timeout=1000)  # what one request asks for stays together
    while engine.step():
        pass
    assert [len(sets) for sets in answerer.passes] == [1, 1, 1, 2, 1, 2]  # it is tried once


def test_a_sound_of_several_batches_has_a_pass_of_its_own() -> None:
    answerer = Recorder()
    engine = engine_of(answerer)
    for batches in ([rows()], [rows(), rows()], [rows()]):
        engine.submit(batches, 1, RED, timeout=1)
    while engine.step():
        pass
    assert [len(sets) for sets in answerer.passes] == [2, 1]


def test_a_full_queue_sends_the_next_request_away_and_says_when_to_come_back() -> None:
    engine = engine_of(Recorder())
    for _ in range(2):
        engine.submit([rows(4)], 4, RED, timeout=1)
    with pytest.raises(RefusedError) as caught:
        engine.submit([rows()], 1, RED, timeout=1)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    assert engine.step()
    engine.submit([rows()], 1, RED, timeout=1)  # there is room again


def test_a_request_that_is_late_or_given_up_is_never_computed() -> None:
    clock, answerer = Clock(), Recorder()
    engine = engine_of(answerer, clock=clock)
    late = engine.submit([rows()], 1, RED, timeout=1)
    given_up = engine.submit([rows()], 1, RED, timeout=5)
    in_time = engine.submit([rows()], 1, GREEN, timeout=5)
    given_up.cancel()
    clock.now = 2.0
    assert engine.step()
    assert answerer.passes == [[GREEN]]
    assert refusal(late).status == 504
    assert in_time.result(0).labels == ["green"]
    with pytest.raises(CancelledError):
        given_up.result(0)


class Picky(Recorder):
    """Fails with any pass that has `green` among its sets."""

    def predict_each_prepared(self, batches: Sequence[Batch], sets: Sequence[ActiveSet]) -> list[Prediction]:
        super().predict_each_prepared(batches, sets)
        return [self.predict_prepared(batches, 1, chosen) for chosen in sets]

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        if chosen == GREEN:
            raise DataError("green")
        return answer(chosen, count)


def test_one_bad_request_harms_none_beside_it() -> None:
    engine = engine_of(Picky())
    good, bad, other = (engine.submit([rows()], 1, chosen, timeout=1) for chosen in (RED, GREEN, RED))
    engine.step()
    assert isinstance(bad.exception(0), DataError)
    assert good.result(0).labels == other.result(0).labels == ["red"]


def test_closing_answers_what_waits_and_takes_no_more() -> None:
    answerer = Recorder()
    engine = engine_of(answerer)
    waiting = [engine.submit([rows(4)], 4, RED, timeout=1) for _ in range(2)]
    engine.start()
    engine.close(60)
    assert [future.result(0).labels for future in waiting] == [["red"] * 4] * 2
    with pytest.raises(RefusedError, match="stopping"):
        engine.submit([rows()], 1, RED, timeout=1)


class BadWatcher:
    """Fails after every pass."""

    def queue(self, rows: int) -> None:
        pass

    def passed(self, rows: int, seconds: float, waited: Sequence[float]) -> None:
        raise ZeroDivisionError


def test_a_metric_that_fails_does_not_end_the_answers() -> None:
    engine = Engine(Recorder(), mixes_sets=True, max_batch=1, max_queue=8, watcher=BadWatcher())
    engine.start()
    futures = [engine.submit([rows()], 1, RED, timeout=60) for _ in range(3)]
    assert [future.result(60).labels for future in futures] == [["red"]] * 3
    engine.close(60)


class Stuck(Recorder):
    """Begins a pass and does not end it until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()

    def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
        self.begun.set()
        self.may_end.wait(60)
        return super().predict_prepared(batches, count, chosen)


def test_a_pass_that_does_not_end_in_time_does_not_hold_up_the_end() -> None:
    answerer = Stuck()
    engine = engine_of(answerer)
    engine.start()
    running = engine.submit([rows()], 1, RED, timeout=1)
    answerer.begun.wait(60)
    waiting = engine.submit([rows()], 1, RED, timeout=1)
    engine.close(0)
    assert refusal(waiting).status == 503
    answerer.may_end.set()
    assert running.result(60).labels == ["red"]


def test_two_passes_run_at_a_time_where_they_may() -> None:
    class Meeting(Recorder):
        """Ends a pass when another one has begun."""

        both = threading.Barrier(2, timeout=60)

        def predict_prepared(self, batches: Sequence[Batch], count: int, chosen: ActiveSet) -> Prediction:
            self.both.wait()
            return super().predict_prepared(batches, count, chosen)

    engine = engine_of(Meeting(), mixes_sets=False)
    engine.start(2)
    answers = [engine.submit([rows()], 1, chosen, timeout=60) for chosen in (RED, GREEN)]
    assert [answer.result(60).labels for answer in answers] == [["red"], ["green"]]
    engine.close(60)


def test_each_thread_warms_up_before_the_engine_has_started() -> None:
    warm: list[str] = []
    engine = engine_of(Recorder())
    engine.start(2, lambda: warm.append(threading.current_thread().name))
    assert warm == ["passes", "passes"]
    engine.close(60)

    def fails() -> None:
        raise DataError("the graph does not run")

    with pytest.raises(DataError, match="does not run"):
        engine_of(Recorder()).start(1, fails)


@pytest.mark.parametrize(
    ("provider", "expected"),
    [("CUDAExecutionProvider", [4, 3, 2, 1]), ("TensorrtExecutionProvider", [1]), ("CPUExecutionProvider", [1])],
)
def test_on_cuda_every_number_of_rows_is_warmed_up(provider: str, expected: list[int]) -> None:
    found: list[int] = []

    class Session:
        input = SimpleNamespace(zeros=lambda rows: np.zeros((rows, 2)))

        def __init__(self) -> None:
            self.provider = provider

        def scores(self, inputs: np.ndarray) -> np.ndarray:
            found.append(len(inputs))
            return inputs

    warm_up(Session(), max_batch=4)  # type: ignore[arg-type]  # an input kind has more
    assert found == expected


class Failing:
    """A session on CUDA whose passes fail."""

    provider = "CUDAExecutionProvider"
    input = SimpleNamespace(zeros=lambda rows: np.zeros((rows, 2)))

    def __init__(self, error: Exception) -> None:
        self.error = error

    def scores(self, inputs: np.ndarray) -> np.ndarray:
        raise self.error


def test_a_bundle_whose_classes_are_all_suspended_is_started_all_the_same() -> None:
    session = Failing(ClassNameError("every class is left out; leave at least one active"))
    warm_up(session, max_batch=4)  # type: ignore[arg-type]  # an input kind has more


def test_what_does_not_fit_on_the_device_is_said_before_the_server_is_ready() -> None:
    session = Failing(RuntimeError("Failed to allocate memory"))
    with pytest.raises(DeviceError, match=r"a pass of 4 rows fails .* Failed to allocate memory; give a smaller --max"):
        warm_up(session, max_batch=4)  # type: ignore[arg-type]  # an input kind has more


# --- with graphs ------------------------------------------------------------------------------------


@pytest.fixture(params=PARAMS)
def bundle(request: pytest.FixtureRequest, forms: Callable[[str], Path]) -> Path:
    return forms(request.param)


def test_in_company_the_numbers_are_those_of_the_session(bundle: Path) -> None:
    session = PromptSession(bundle, device="cpu")
    stated = session.stated
    engine = Engine(
        session, mixes_sets=stated.signatures.mixes_sets, shares_passes=stated.is_row_by_row, max_batch=8, max_queue=8
    )
    inputs = session.input.random(4, np.random.default_rng(0))
    sets = [ActiveSet(), ActiveSet(("red", "blue")), ActiveSet(without=("green",)), ActiveSet(("grey",))]

    alone = []
    for place, chosen in enumerate(sets):
        alone.append(engine.submit([Batch.of_items([0], inputs[[place]])], 1, chosen, timeout=60))
        engine.step()
    company = [
        engine.submit([Batch.of_items([0], inputs[[place]])], 1, chosen, timeout=60)
        for place, chosen in enumerate(sets)
    ]
    while engine.step():
        pass
    for place, chosen in enumerate(sets):
        expected = session.predict(inputs[[place]], chosen.active, without=chosen.without)
        one, gathered = alone[place].result(0), company[place].result(0)
        assert one.labels == gathered.labels == expected.labels
        assert one.classes == gathered.classes == expected.classes
        np.testing.assert_array_equal(one.probabilities, expected.probabilities)
        np.testing.assert_allclose(gathered.probabilities, expected.probabilities, atol=1e-5)


def test_what_waits_while_a_class_is_erased_is_answered_without_it(bundle: Path, tmp_path: Path) -> None:
    session = PromptSession(shutil.copytree(bundle, tmp_path / "copy"), device="cpu")
    engine = Engine(session, mixes_sets=True, max_batch=8, max_queue=8)
    batch = Batch.of_items([0], session.input.random(1, np.random.default_rng(0)))
    everything, named = (
        engine.submit([batch], 1, chosen, timeout=60) for chosen in (ActiveSet(), ActiveSet(("blue",)))
    )
    PromptSession(session.folder, device="cpu").erase(["blue"])  # as another process would
    engine.step()
    assert everything.result(0).classes == ("red", "green", "grey")
    assert isinstance(named.exception(0), ClassNameError)


def _at_once(give: Callable[[], None]) -> None:
    give()


def test_an_answer_that_cannot_be_given_keeps_none_of_its_pass_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Future[Prediction]):
        def set_result(self, result: Prediction) -> None:
            raise OSError("its connection is broken")

    logged: list[BaseException] = []
    monkeypatch.setattr("pfm_export.service.engine.log_error", lambda event, error: logged.append(error))
    engine = engine_of(Recorder())
    answers: list[Future[Prediction]] = [Broken(), Future()]
    engine.submit_all([engine.job(each, [rows()], 1, RED, timeout=60, post=_at_once) for each in answers])
    engine.step()
    assert answers[1].result(0).labels == ["red"]
    assert [str(error) for error in logged] == ["its connection is broken"]
