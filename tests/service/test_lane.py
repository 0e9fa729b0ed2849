"""The short way of ordinary inference requests: the answers of the usual way, also when a class has just gone."""

import hashlib
import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making.served import Local, listening
from pfm_export.service import outlines, worker
from pfm_export.service.engine import Engine
from pfm_export.service.tenants import Right
from pfm_export.serving.bundle import Bundle

WARD, OTHER, STRANGER = "ward-" + "a" * 32, "other-" + "b" * 32, "nobody-" + "c" * 32
RIGHTS = {WARD: ["predict"], OTHER: ["metrics"]}
INPUTS = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
PATH = "/v2/models/requests/infer"
Answer = tuple[str, list[str], bytes]


@dataclass(frozen=True)
class Served:
    local: Local
    address: str
    bundle: Path

    def ask(self, request: bytes) -> Answer:
        """Status, headers but those that differ each time, and body; on a connection of its own."""
        host, _, port = self.address.rpartition(":")
        with closing(socket.create_connection((host, int(port)), timeout=600)) as connection:
            connection.sendall(request)
            return receive(connection)

    def ask_usually(self, request: bytes) -> Answer:
        """The same, not the short way."""
        lane, self.local.app.lane = self.local.app.lane, None
        try:
            return self.ask(request)
        finally:
            self.local.app.lane = lane

    @property
    def taken(self) -> int:
        """Requests that went the short way and were answered."""
        return self.local.app.lane.answered  # type: ignore[attr-defined]

    @property
    def refused(self) -> int:
        """Requests that went the short way and were refused."""
        return self.local.app.lane.refused  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def served(forms: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("lane")
    bundle = Path(shutil.copytree(forms("requests"), folder / "requests"))
    Bundle.open(bundle).suspend(["grey"], profile="ward").suspend([], profile="other")
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": token.partition("-")[0], "rights": rights}
        for token, rights in RIGHTS.items()
    ]
    (folder / "tokens.json").write_text(json.dumps({"tokens": entries}))
    with listening(bundle, tokens=folder / "tokens.json", max_batch=4) as (local, address):
        found = Served(local, address, bundle)
        found.ask(asking())  # it waits until the server is there
        yield found


def more(connection: socket.socket) -> bytes:
    part = connection.recv(1 << 16)
    assert part, "the connection ended"
    return part


def receive(connection: socket.socket) -> Answer:
    got = b""
    while b"\r\n\r\n" not in got:
        got += more(connection)
    head, _, body = got.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length is not None
    while len(body) < int(length[1]):
        body += more(connection)
    status, *lines = head.decode().split("\r\n")
    return status, sorted(line for line in lines if not line.startswith(("date:", "x-request-id:"))), body


def asking(
    rows: int = 1, *, path: str = PATH, token: str = WARD, inputs: np.ndarray | None = None, more: str = "",
    entry: dict[str, Any] | None = None, **document: Any,
) -> bytes:  # fmt: skip
    """A request with binary tensors."""
    numbers = (INPUTS[:rows] if inputs is None else inputs).tobytes()
    tensor = {
        "name": "pixel_values", "datatype": "FP32", "shape": [rows, 3, 8, 8],
        "parameters": {"binary_data_size": len(numbers)}, **(entry or {}),
    }  # fmt: skip
    text = json.dumps({"inputs": [tensor], **document}).encode()
    body = text + numbers
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nAuthorization: Bearer {token}\r\n{more}\r\n"
    )
    return head.encode() + body


BINARY: dict[str, Any] = {"parameters": {"binary_data_output": True}}
SHORT = {
    "plain": asking(),
    "binary": asking(**BINARY),
    "rows": asking(4, **BINARY),
    "active": asking(parameters={"active": ["red", "blue"], "binary_data_output": True}),
    "without": asking(parameters={"without": '["red"]'}),
    "own profile": asking(parameters={"profile": "ward"}),
    "an id": asking(id="7", **BINARY),
    "outputs": asking(outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "labels"}]),
    "last in JSON": asking(
        outputs=[{"name": "labels", "parameters": {"binary_data": True}}, {"name": "probabilities"}]
    ),
    "no outputs": asking(outputs=[]),
    "more headers": asking(more="X-Y: z\r\nConnection: keep-alive\r\n"),
}
REFUSED = {
    "a class that is hidden": asking(parameters={"active": ["grey"]}),
    "no class": asking(parameters={"active": ["nothing"]}),
    "no class left": asking(parameters={"without": ["red", "green", "blue"]}),
}
USUAL = {
    "another profile": asking(parameters={"profile": "other"}),
    "its own time": asking(parameters={"timeout": 9_000_000}),
    "an unknown parameter": asking(parameters={"withuot": ["red"]}),
    "no right": asking(token=OTHER),
    "a stranger": asking(token=STRANGER),
    "no token": asking(token=""),
    "two tokens": asking(more=f"Authorization: Bearer {WARD}\r\n"),
    "no model": asking(path="/v2/models/nothing/infer"),
    "a version": asking(path="/v2/models/requests/versions/1/infer"),
    "a query": asking(path=f"{PATH}?x=1"),
    "NaN": asking(inputs=np.full((1, 3, 8, 8), np.nan, np.float32)),
    "pixels": asking(inputs=np.full((1, 3, 8, 8), 200, np.float32)),
    "another shape": asking(entry={"shape": [1, 3, 4, 16]}),
    "fewer bytes": asking(inputs=INPUTS[0, 0]),
    "too many rows": asking(5, inputs=np.zeros((5, 3, 8, 8), np.float32)),
    "another host": asking().replace(b"Host: localhost", b"Host: example.org"),
    "a compressed body": asking(more="Content-Encoding: gzip\r\n"),
}


def test_what_goes_the_short_way_gets_the_bytes_of_the_usual_one(served: Served) -> None:
    for _ in range(2):  # what is kept of the first time counts in the second
        for name, request in SHORT.items():
            before = served.taken
            assert served.ask(request) == served.ask_usually(request), name
            assert served.taken == before + 1, name


def test_a_class_that_is_not_there_is_refused_the_short_way_with_the_bytes_of_the_usual_one(served: Served) -> None:
    for name, request in REFUSED.items():
        before = served.refused
        assert served.ask(request) == served.ask_usually(request), name
        assert served.refused == before + 1, name


def test_what_is_refused_for_another_reason_or_is_odd_goes_the_usual_way(served: Served) -> None:
    for _ in range(2):
        for name, request in USUAL.items():
            before = served.taken
            assert served.ask(request) == served.ask_usually(request), name
            assert served.taken == before, name


def test_who_would_wait_too_long_is_refused_the_short_way_with_the_bytes_of_the_usual_one(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "_takes", lambda *_: 99.0)
    before = served.refused
    bad = asking(**BINARY)[: -INPUTS[0].nbytes] + np.full_like(INPUTS[0], np.inf).tobytes()
    for request in (*SHORT.values(), bad):  # whose numbers are not looked at
        status, headers, body = served.ask(request)
        assert status == "HTTP/1.1 429 Too Many Requests"
        assert any(line.startswith("retry-after: ") for line in headers)
        assert request is bad or (status, headers, body) == served.ask_usually(request)
    assert served.refused == before + len(SHORT) + 1
    assert served.ask(USUAL["a stranger"])[0] == "HTTP/1.1 401 Unauthorized"


def test_numbers_that_are_bad_are_seen_where_the_rest_is_known(served: Served) -> None:
    good = asking(**BINARY)
    bad = good[: -INPUTS[0].nbytes] + np.full_like(INPUTS[0], np.inf).tobytes()
    assert served.ask(good)[0] == "HTTP/1.1 200 OK"
    assert served.ask(bad)[0].startswith("HTTP/1.1 400")


def test_one_connection_takes_both_ways_and_requests_that_wait_behind_each_other(served: Served) -> None:
    host, _, port = served.address.rpartition(":")
    with closing(socket.create_connection((host, int(port)), timeout=600)) as connection:
        found: list[Answer] = []
        for request in (SHORT["binary"], REFUSED["no class"], SHORT["binary"], USUAL["its own time"]):
            connection.sendall(request)
            found.append(receive(connection))
        assert found[0] == found[2] == served.ask_usually(SHORT["binary"])
        assert found[1] == served.ask_usually(REFUSED["no class"])
        assert found[3] == served.ask_usually(USUAL["its own time"])


def test_a_connection_on_which_nothing_follows_is_ended_whichever_way_the_last_request_went(
    forms: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "KEEP_ALIVE", 1.0)  # all connections wait for it at the same time
    short, refused, usual = SHORT["binary"], REFUSED["no class"], USUAL["its own time"]
    with listening(forms("requests")) as (_, address), ExitStack() as connections:
        host, _, port = address.rpartition(":")
        quiet: list[socket.socket] = []
        for requests in ((short,), (refused,), (short, usual), (usual, short), (usual, refused)):
            connection = socket.create_connection((host, int(port)), timeout=600)
            quiet.append(connections.enter_context(connection))
            for request in requests:
                connection.sendall(request)
                receive(connection)
        for connection in quiet:
            assert connection.recv(1) == b""


def test_a_class_that_goes_is_refused_as_if_it_had_never_been_there(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(forms("requests"), tmp_path / "requests"))
    named, all_of_them = asking(parameters={"active": ["red", "blue"]}), asking(**BINARY)
    with listening(bundle) as (local, address):
        here = Served(local, address, bundle)
        assert [here.ask(request)[0][-6:] for request in (named, all_of_them)] == ["200 OK"] * 2
        Bundle.open(bundle).suspend(["blue"])  # by another process: only the files say so
        gone = here.ask(named)
        assert gone == here.ask_usually(named)
        assert gone[0].startswith("HTTP/1.1 400")
        assert b"no class 'blue'" in gone[2]
        assert b"blue" not in here.ask(all_of_them)[2]
        Bundle.open(bundle).restore(["blue"])
        assert b"blue" in here.ask(named)[2]  # what the lane saw last has it not
        known = local.app.lane._outlines["requests"]  # type: ignore[attr-defined]
        assert "blue" in repr(known._kept)
        Bundle.open(bundle).erase(["blue"])
        assert here.ask(all_of_them) == here.ask_usually(all_of_them)
        assert b"blue" not in here.ask(all_of_them)[2]
        assert "blue" not in repr(known._kept)
        assert b"no class 'blue'" in here.ask(named)[2]


def test_what_is_known_of_requests_that_are_not_kept_goes_with_them(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlines, "MOST_KEPT", 3)
    for number in range(8):  # clients may number their requests, so that no two are alike
        assert served.ask(asking(id=str(number), **BINARY))[0].endswith("200 OK")
    kept = served.local.app.lane._outlines["requests"]  # type: ignore[attr-defined]
    assert len(kept._checked) <= len(kept._kept) <= 3


def test_after_an_answer_of_one_worker_the_other_one_knows_whatever_it_saw_before(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(forms("requests"), tmp_path / "requests"))
    Bundle.open(bundle).suspend(["grey"], profile="ward")
    entry = {"sha256": hashlib.sha256(WARD.encode()).hexdigest(), "profile": "ward", "rights": list(Right)}
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [entry]}))
    named, all_of_them = asking(parameters={"active": ["red", "blue"]}), asking(**BINARY)
    with listening(bundle, tokens=tokens) as (one, _), listening(bundle, tokens=tokens) as (two, address):
        here = Served(two, address, bundle)
        for number, (what, is_gone) in enumerate((("suspend", True), ("restore", False), ("erase", True))):
            assert [here.ask(request)[0][-6:] for request in (all_of_them, all_of_them)] == ["200 OK"] * 2
            before = here.taken  # what it saw then
            told = one(
                "POST", f"/v1/models/requests/{what}", json={"classes": ["blue"], "request_id": str(number)},
                headers={"authorization": f"Bearer {WARD}"},
            )  # fmt: skip
            assert told.status_code == 200
            first, then = here.ask(all_of_them), here.ask(named)
            assert here.taken == before + 1 + (not is_gone)
            assert (b"blue" in first[2]) is not is_gone
            assert then[0].startswith("HTTP/1.1 400") is is_gone
            assert first == here.ask_usually(all_of_them)
            assert then == here.ask_usually(named)
