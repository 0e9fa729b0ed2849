"""How many threads a pass of a server has: as many as it was told, and else what a row of the model asks for."""

import json
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from making.served import opened
from pfm_export.service import thread_choice
from pfm_export.service.thread_choice import open_session
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runtime import CPU, CUDA
from pfm_export.serving.session import PromptSession

OPTIONS: dict[str, Any] = {"device": "cpu", "threads": 2, "spin": False, "is_fixed": False}


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """Threads of each session that was opened, and whether none was there beside it."""
    found: list[tuple[int, bool]] = []
    there: weakref.WeakSet[PromptSession] = weakref.WeakSet()

    def open_one(folder: Path, *, device: str, threads: int, spin: bool) -> PromptSession:
        found.append((threads, not there))
        session = PromptSession(folder, device="cpu", threads=threads, spin=spin)
        there.add(session)
        return session

    monkeypatch.setattr(thread_choice, "PromptSession", open_one)
    return found


def row_of(monkeypatch: pytest.MonkeyPatch, *milliseconds: float) -> None:
    """Let passes take so long, one after the other, whatever the machine does; the last of them again and again."""
    clock = 0.0
    left = list(milliseconds)
    is_over = True

    def now() -> float:
        nonlocal clock, is_over
        is_over = not is_over
        if is_over:
            clock += (left.pop(0) if len(left) > 1 else left[0]) / 1000
        return clock

    monkeypatch.setattr(thread_choice.time, "process_time", now)


def test_a_model_whose_row_takes_next_to_nothing_has_one_thread(
    forms: Callable[[str], Path], sessions: Sequence[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row_of(monkeypatch, 0.5)
    found = open_session(forms("shared"), **OPTIONS)
    assert sessions == [(2, True), (1, True)]  # one is let go of before the other takes memory
    assert found.threads == 1
    assert found.row_ms == pytest.approx(0.5)


@pytest.mark.parametrize(("passes", "threads"), [((3.0, 3.0, 0.9), 1), ((3.0, 1.6), 2), ((90.0,), 2)])
def test_the_quickest_pass_counts_and_a_slower_model_keeps_all_threads(
    passes: Sequence[float], threads: int, forms: Callable[[str], Path], sessions: Sequence[tuple[int, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    row_of(monkeypatch, *passes)
    found = open_session(forms("shared"), **OPTIONS)
    assert found.threads == threads
    assert found.row_ms == pytest.approx(min(passes))
    assert len(sessions) == (2 if threads == 1 else 1)


@pytest.mark.parametrize(
    "given", [{"is_fixed": True}, {"spin": True}, {"threads": 1}, {"device": "cuda"}, {"device": "openvino"}], ids=str
)
def test_nothing_is_tried_where_there_is_nothing_to_choose(
    given: dict[str, Any], forms: Callable[[str], Path], sessions: Sequence[tuple[int, bool]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    provider = {"cuda": CUDA, "openvino": "OpenVINO f32"}.get(given.get("device", ""), CPU)
    monkeypatch.setattr(PromptSession, "provider", property(lambda _: provider))
    row_of(monkeypatch, 0.5)
    options = {**OPTIONS, **given}
    found = open_session(forms("shared"), **options)
    assert (found.threads, found.row_ms) == (options["threads"], None)
    assert sessions == [(options["threads"], True)]


def test_a_large_graph_is_not_tried(
    forms: Callable[[str], Path], sessions: Sequence[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thread_choice, "LARGE", 10**4)
    row_of(monkeypatch, 0.5)
    assert open_session(forms("shared"), **OPTIONS).threads == 2
    assert sessions == [(2, True)]


def test_a_bundle_whose_classes_are_all_suspended_is_served_with_all_threads(
    forms: Callable[[str], Path], sessions: Sequence[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Bundle, "suspended", lambda self, profile=None: set(self.classes.ids))
    found = open_session(forms("shared"), **OPTIONS)
    assert (found.threads, found.row_ms) == (2, None)
    assert sessions == [(2, True)]


def test_the_number_of_threads_is_in_the_log_and_in_the_metrics(
    forms: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for threads, said in ((None, 1), (3, 3)):
        with pytest.MonkeyPatch.context() as patch:
            row_of(patch, 0.5)
            with opened(forms("shared"), threads=threads) as local:
                assert f'pfm_pass_threads{{model="shared"}} {said}.0' in local("GET", "/metrics").text
        (line,) = (
            line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["event"] == "model"
        )  # fmt: skip
        assert (line["threads"], line["row_ms"]) == (said, 0.5 if threads is None else None)


def test_a_row_is_measured_in_time_that_passes_computed(forms: Callable[[str], Path]) -> None:
    session = PromptSession(forms("shared"), device="cpu", threads=1)
    found = thread_choice.row_on_cpu_ms(session)
    assert found is not None
    assert found > 0
