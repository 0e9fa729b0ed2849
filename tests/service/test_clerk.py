"""The process that changes bundles beside a worker: what the worker hides meanwhile, and what happens when it ends."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from making.bundles import make_bundle
from pfm_export.service.clerk import Clerk
from pfm_export.service.journal import Asked
from pfm_export.service.orders import Named
from pfm_export.service.refusals import RefusedError
from pfm_export.service.shown import Shown
from pfm_export.service.tenants import Right, Tenant
from pfm_export.serving.served import ServedBundle

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


@pytest.mark.parametrize(("then", "is_refused"), [(ANSWERS, False), ("", True)], ids=["answers", "ends"])
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
        deadline = time.monotonic() + 60
        while served.classes.names != others:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert not told
        (tmp_path / "go").touch()
        asking.join(60)
    assert told == ([500] if is_refused else [{}])
    assert served.classes.names == (name, *others)  # this one changed no file
