"""The process that changes bundles beside a worker: what the worker hides meanwhile, and what happens when it ends."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from making.bundles import make_bundle
from making.served import until
from pfm.errors import StorageError
from pfm.forgetting.ledger import LOCK
from pfm.locks import locked
from pfm_export.service.changes import UNDONE, Changes
from pfm_export.service.clerk import Clerk
from pfm_export.service.journal import Asked, Journal
from pfm_export.service.orders import Named
from pfm_export.service.refusals import RefusedError
from pfm_export.service.shown import Shown
from pfm_export.service.tenants import Right, Tenant
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.served import ServedBundle

WARD = Tenant(tag="ward", rights=frozenset(Right))
BLUE = Asked(who="ward", id="r1", action="erase", model="shared", classes=("blue",), reason="wegen „blau“")
WAITS = """
import pathlib, sys, time
sys.stdin.readline()
print('leaving ["{name}"]', flush=True)
while not pathlib.Path({go!r}).exists():
    time.sleep(0.005)
{then}
"""
ANSWERS = 'print(\'{"done": [], "answer": {}}\', flush=True)'


@pytest.fixture
def served(tmp_path: Path) -> ServedBundle:
    return ServedBundle(make_bundle(tmp_path / "model"))


def clerk_that(then: str, served: ServedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Clerk]:
    script = WAITS.format(name=served.classes.names[0], go=str(tmp_path / "go"), then=then)

    def start(_: Clerk) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    monkeypatch.setattr(Clerk, "_start", start)
    clerk = Clerk([Named("m", served.folder)], tmp_path, lambda *_: None)
    yield clerk
    clerk.close()


@pytest.mark.parametrize(
    ("then", "is_refused"),
    [(ANSWERS, False), ("", True), ("print('{', flush=True)", True)],
    ids=["answers", "ends", "raves"],
)
def test_a_class_is_hidden_as_soon_as_its_erasure_begins_and_the_files_count_when_it_ends(
    then: str, is_refused: bool, served: ServedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, others = served.classes.names[0], served.classes.names[1:]
    told: list[object] = []

    def ask(clerk: Clerk) -> None:
        asked = Asked(who="-", id="r1", action="erase", model="m", classes=(name,))
        tenant = Tenant(tag="-", profile=None, rights=frozenset(Right))
        try:
            told.append(clerk.carry_out(Shown("m", served), tenant, asked))
        except RefusedError as error:
            told.append(error.status)

    for clerk in clerk_that(then, served, tmp_path, monkeypatch):
        asking = threading.Thread(target=ask, args=(clerk,))
        asking.start()
        until(lambda: served.classes.names == others)
        assert not told
        (tmp_path / "go").touch()
        asking.join(600)
    assert told == ([500] if is_refused else [{}])
    assert served.classes.names == (name, *others)  # this one changed no file


# --- the process itself ------------------------------------------------------------------------------


@pytest.fixture
def shown(forms: Callable[[str], Path], tmp_path: Path) -> Shown:
    return Shown("shared", ServedBundle(shutil.copytree(forms("shared"), tmp_path / "shared")))


@pytest.fixture
def counted() -> list[tuple[str, str, int]]:
    return []


@pytest.fixture
def clerk(shown: Shown, tmp_path: Path, counted: list[tuple[str, str, int]]) -> Iterator[Clerk]:
    def count(*what: object) -> None:
        counted.append(what)  # type: ignore[arg-type]

    with closing(Clerk([Named("shared", shown.served.folder)], tmp_path / "records", count)) as found:
        yield found


@pytest.mark.slow
def test_a_change_during_which_the_process_is_killed_is_done_when_it_is_asked_for_again(
    clerk: Clerk, shown: Shown, counted: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(shown.served, "leaving", hidden.append)
        for number, names in enumerate((("no",), shown.served.classes.names)):
            asked = Asked(who="ward", id=f"none {number}", action="erase", model="shared", classes=names)
            with pytest.raises(RefusedError, match="a class that was named is not there") as refused:
                clerk.carry_out(shown, WARD, asked)
            assert refused.value.status == 400
    assert not hidden  # what is refused disturbs nobody
    with ThreadPoolExecutor(1) as worker, locked(shown.served.folder / LOCK):  # so far it comes, and no further
        asking = worker.submit(clerk.carry_out, shown, WARD, BLUE)
        until(lambda: not shown.served.classes.knows("blue"))
        os.kill(clerk.pid, signal.SIGTERM)  # of a whole group of processes: it is the worker that says when to end
        os.kill(clerk.pid, signal.SIGKILL)
        with pytest.raises(RefusedError, match=UNDONE):
            asking.result(600)
    assert shown.served.classes.knows("blue")
    told: Any = clerk.carry_out(shown, WARD, BLUE)
    assert told["certificate"]["reason"] == BLUE.reason
    assert not shown.served.classes.knows("blue")
    assert counted == [("shared", "erase", 1)]
    ended = Path(f"/proc/{clerk.pid}/stat")
    os.kill(clerk.pid, signal.SIGKILL)  # while it has nothing to do: nobody notices
    until(lambda: " Z " in ended.read_text())
    assert clerk.carry_out(shown, WARD, BLUE) == told


@pytest.mark.parametrize(
    ("first_lost", "is_begun"), [("ledger.write", False), ("write_bytes", True), ("write_manifest", True)]
)
def test_an_erasure_that_could_not_write_a_file_is_completed_before_it_is_certified(
    first_lost: str, is_begun: bool, shown: Shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fails(*_: object) -> None:
        raise StorageError("cannot write 'a name'") from OSError(errno.EROFS, "Read-only file system", "a name")

    folder, before = shown.served.folder, Bundle.open(shown.served.folder).bank_sha256
    changes = Changes(Journal(tmp_path / "records"), lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(f"pfm_export.serving.bundle.{first_lost}", fails)
        with pytest.raises(RefusedError, match=rf"{UNDONE} \(Read-only file system\); ask again") as refused:
            changes.carry_out(shown, WARD, BLUE)
    logged = capsys.readouterr().err
    assert json.loads(logged)["system"] == "EROFS"
    assert "a name" not in logged + str(refused.value)
    assert bool(Bundle.open(folder).pending) is is_begun
    assert shown.served.classes.knows("blue") is not is_begun  # whatever is in the bank
    again = Changes(Journal(tmp_path / "records"), lambda *_: None)  # of another process
    told: Any = again.carry_out(Shown("shared", ServedBundle(folder)), WARD, BLUE)
    assert told["certificate"]["artifacts"][0]["records"]
    after = Bundle.open(folder)
    assert not after.pending
    assert not after.classes.knows("blue")
    assert after.bank_sha256 != before
