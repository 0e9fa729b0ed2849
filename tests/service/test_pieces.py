"""Requests in pieces, as most clients send them: the answers of requests in one, and all that guards a body."""

import asyncio
import gc
import hashlib
import http.client
import json
import random
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton

from making.served import Local, listening, opened
from making.wires import Wire, connected
from pfm_export.service import connection as connections
from pfm_export.service.connection import Connection
from pfm_export.service.guard import BODIES_AT_ONCE
from pfm_export.service.lane import Lane
from pfm_export.service.refusals import too_busy
from pfm_export.serving.bundle import Bundle

WARD, OTHER = "ward-" + "a" * 32, "other-" + "b" * 32
INPUTS = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
ROWS = 800  # of 768 bytes: as much as a picture of 224 pixels
STEP = 5  # bytes between two places at which a request is cut
PATH = "/v2/models/requests/infer"


@pytest.fixture(scope="module")
def local(forms: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    """Passes of one row, whose numbers do not depend on what else is asked."""
    folder = tmp_path_factory.mktemp("pieces")
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": name, "rights": rights}
        for token, name, rights in ((WARD, "ward", ["predict", "erase"]), (OTHER, "other", ["metrics"]))
    ]
    (folder / "tokens.json").write_text(json.dumps({"tokens": entries}))
    bundle = Path(shutil.copytree(forms("requests"), folder / "requests"))
    Bundle.open(bundle).suspend(["grey"], profile="ward").suspend([], profile="other")
    with opened(
        bundle, tokens=folder / "tokens.json", records=folder / "records", max_batch=1, max_queue=2000,
        max_mib=1, timeout=600.0,
    ) as found:  # fmt: skip
        yield found


@pytest.fixture(autouse=True)
def heads_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte at a time, on a busy machine."""
    monkeypatch.setattr(connections, "HEAD_SECONDS", 600)


def head(length: int, *more: str, path: str = PATH, token: str = WARD) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def asking(numbers: bytes = INPUTS.tobytes(), *, path: str = PATH, token: str = WARD, **document: Any) -> bytes:
    """A request with binary tensors."""
    entry = {
        "name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8],
        "parameters": {"binary_data_size": len(numbers)},
    }  # fmt: skip
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}, **document}).encode()
    more = f"Inference-Header-Content-Length: {len(text)}"
    return head(len(text) + len(numbers), more, path=path, token=token) + text + numbers


def as_json() -> bytes:
    entry = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": INPUTS.tolist()}
    body = json.dumps({"inputs": [entry]}).encode()
    return head(len(body)) + body


def chunked(request: bytes) -> bytes:
    start, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in start.split(b"\r\n") if not line.startswith(b"Content-Length")]
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:100], body[100:])]
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", b""]) + b"".join(chunks) + b"0\r\n\r\n"


SHORT, GONE = asking(), asking(parameters={"active": ["nothing"]})
REQUESTS = {
    "binary": (200, SHORT),
    "a class that is not there": (400, GONE),
    "JSON": (200, as_json()),
    "its own time": (200, asking(parameters={"timeout": 90_000_000})),
    "NaN": (400, asking(np.full_like(INPUTS, np.nan).tobytes())),
    "fewer numbers": (400, asking(INPUTS.tobytes()[:-4])),
    "no model": (404, asking(path="/v2/models/nothing/infer")),
    "a query": (400, asking(path=f"{PATH}?x=1")),
    "no right": (403, asking(token=OTHER)),
    "a stranger": (401, asking(token="c" * 40)),
    "an upload": (400, head(30, path="/v1/predict") + b"x" * 30),
    "no address": (404, head(30, path="/nothing") + b"x" * 30),
    "a change that is not JSON": (415, head(4, path="/v1/models/requests/erase") + b"blue"),
    "too long": (413, head(2 << 20) + b"x" * 30),
    "chunks": (200, chunked(as_json())),
    "one behind the other": (200, SHORT + GONE + SHORT),
    "no request": (400, b"POST / HTTP/1.1\r\nnothing\r\n\r\n"),
}  # fmt: skip


def said(wire: Wire) -> list[tuple[str, list[str], bytes]]:
    """Answers: status, headers but those that differ each time, and body."""
    found, left = list[tuple[str, list[str], bytes]](), b"".join(wire.writes)
    while b"\r\n\r\n" in left:
        status, *lines = left[: left.index(b"\r\n\r\n")].decode().split("\r\n")
        (length,) = (int(line[16:]) for line in lines if line.startswith("content-length: "))
        start = left.index(b"\r\n\r\n") + 4
        lines = [line for line in lines if not line.lower().startswith(("date:", "x-request-id:"))]
        found.append((status, sorted(map(str.lower, lines)), left[start : start + length]))
        left = left[start + length :]
    assert not left
    return found


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not is_so():
            await asyncio.sleep(0.001)


def ask(local: Local, pieces: Sequence[Sequence[bytes]], answers: int = 1) -> list[Any]:
    """What is said on connections that each get pieces, after so many answers or the end."""

    async def one(each: Sequence[bytes]) -> list[Any]:
        async with connected(local.app) as (connection, wire):
            for piece in each:
                connection.data_received(piece)
                await asyncio.sleep(0)
            await until(lambda: wire.is_closed or b"".join(wire.writes).count(b"HTTP/1.1 ") >= answers)
            return said(wire)

    async def all_of_them() -> list[Any]:
        local.app.lane = Lane(local.service, local.app)
        return await asyncio.gather(*map(one, pieces))

    found = asyncio.run(all_of_them())
    assert local.app.room.held == 0
    return found


def test_wherever_a_request_is_cut_its_answer_is_the_same(local: Local) -> None:
    for request in (SHORT, GONE):
        whole, *cut = ask(local, [[request], *([request[:at], request[at:]] for at in range(1, len(request), STEP))])
        assert len(whole) == 1
        assert whole[0][0] == ("HTTP/1.1 200 OK" if request == SHORT else "HTTP/1.1 400 Bad Request")
        assert all(each == whole for each in cut)
        taken = local.app.lane.answered + local.app.lane.refused  # type: ignore[attr-defined]
        after_the_head = len(range(1, len(request), STEP)) - request.index(b"\r\n\r\n") // STEP
        assert taken >= after_the_head - 2


def test_requests_of_every_kind_in_any_pieces_are_answered_as_in_one(local: Local) -> None:
    draw = random.Random(0)
    for name, (status, request) in REQUESTS.items():
        answers = 3 if name == "one behind the other" else 1
        pieces = [[request], [request[at : at + 1] for at in range(len(request))]]
        for count in (1, 2, 5, 30):
            cuts = sorted(draw.choices(range(len(request) + 1), k=count))
            pieces.append([request[a:b] for a, b in zip([0, *cuts], [*cuts, len(request)], strict=True) if a < b])
        whole, *cut = ask(local, pieces, answers)
        assert len(whole) == answers, name
        assert whole[0][0].startswith(f"HTTP/1.1 {status} "), name
        assert all(each == whole for each in cut), name


@pytest.fixture
def run(local: Local) -> Callable[[Callable[[Connection, Wire], Any]], Wire]:
    """A conversation with the server, after which it holds nothing."""

    def talk(what: Callable[[Connection, Wire], Any]) -> Wire:
        async def go() -> Wire:
            local.app.lane = Lane(local.service, local.app)
            async with connected(local.app) as (connection, wire):
                await what(connection, wire)
            await until(lambda: local.app.room.held == 0)
            return wire

        return asyncio.run(go())

    return talk


Run = Callable[[Callable[[Connection, Wire], Any]], Wire]
UPLOAD = head(1000, path="/v1/predict") + b"x" * 1000


@pytest.mark.parametrize("request_of", [SHORT, UPLOAD, as_json()])
def test_a_body_that_does_not_come_in_time_is_given_up(local: Local, run: Run, request_of: bytes) -> None:
    async def stalls(connection: Connection, wire: Wire) -> None:
        connection.data_received(request_of[:-10])
        await until(lambda: wire.is_closed)

    timeout = local.service.config.timeout
    object.__setattr__(local.service.config, "timeout", 0.05)
    try:
        ((status, headers, body),) = said(run(stalls))
    finally:
        object.__setattr__(local.service.config, "timeout", timeout)
    assert status.startswith("HTTP/1.1 408 ")
    assert "connection: close" in headers
    assert body == b'{"error":"the body did not come in time"}'


@pytest.mark.parametrize("request_of", [SHORT, UPLOAD])
def test_what_was_gathered_counts_until_the_connection_is_lost(
    local: Local, run: Run, request_of: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    async def breaks(connection: Connection, wire: Wire) -> None:
        start = request_of.index(b"\r\n\r\n") + 4
        connection.data_received(request_of[: start + 100])
        connection.data_received(request_of[start + 100 : -10])
        await until(lambda: local.app.room.held >= len(request_of) - start - 10)

    assert run(breaks).writes == []
    (line,) = (json.loads(line) for line in capsys.readouterr().err.splitlines() if '"request"' in line)
    assert line["why"] == "gone"


@pytest.mark.parametrize("request_of", [SHORT, UPLOAD])
def test_where_too_many_bodies_are_in_memory_one_that_grows_is_refused(
    local: Local, run: Run, request_of: bytes
) -> None:
    async def grows(connection: Connection, wire: Wire) -> None:
        connection.data_received(request_of[:-500])
        await until(lambda: local.app.room.held > 0)
        others = (BODIES_AT_ONCE << 20) - local.app.room.held
        local.app.room.held += others
        connection.data_received(request_of[-500:-100])
        await until(lambda: wire.is_closed)
        local.app.room.held -= others

    ((status, headers, _),) = said(run(grows))
    assert status.startswith("HTTP/1.1 429 ")
    assert {"connection: close", "retry-after: 2"} <= set(headers)


@pytest.mark.parametrize(
    ("begun", "status"),
    [
        (head((1 << 20) + 1, "Inference-Header-Content-Length: 9"), 413), (head(1000, path="/nothing"), 404),
        (head(1000, "Inference-Header-Content-Length: 9", token=OTHER), 403),
        (head(1000, "Inference-Header-Content-Length: 9", token="c" * 40), 401),
        (head(1000, path="/v1/predict", token=OTHER), 403),
    ],
)  # fmt: skip
def test_what_a_head_is_enough_to_refuse_is_refused_unread(run: Run, begun: bytes, status: int) -> None:
    async def begins(connection: Connection, wire: Wire) -> None:
        connection.data_received(begun)
        await until(lambda: wire.is_closed)
        connection.data_received(SHORT)  # of the body; not another request
        await asyncio.sleep(0.01)

    ((line, headers, _),) = said(run(begins))
    assert line.startswith(f"HTTP/1.1 {status} ")
    assert "connection: close" in headers


LAST = {
    "binary": (200, SHORT.replace(b"Host:", b"Connection: close\r\nHost:")),
    "JSON": (200, as_json().replace(b"Host:", b"Connection: Close\r\nHost:")),
    "chunks": (200, chunked(as_json()).replace(b"Host:", b"Connection: keep-alive, close\r\nHost:")),
    "the older HTTP": (200, SHORT.replace(b"HTTP/1.1", b"HTTP/1.0")),
    "no body": (200, b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
    "a refusal": (400, GONE.replace(b"Host:", b"Connection: close\r\nHost:")),
}
BEHIND = (b"\r\n", SHORT, b"x" * 200_000)


@pytest.mark.parametrize("first", ["", "quick", "usual"])
@pytest.mark.parametrize("name", LAST)
def test_what_follows_the_last_request_changes_nothing_of_its_answer(local: Local, name: str, first: str) -> None:
    status, last = LAST[name]
    before = {"": b"", "quick": SHORT, "usual": as_json()}[first]
    answers = 1 + bool(before)
    pieces = [[before + last]]
    for behind in BEHIND:
        pieces += [[before + last + behind], [before + last[:-1], last[-1:] + behind], [before + last, behind, behind]]
        pieces += [[before, last, behind], [before, last + behind[:1], behind[1:], behind]]
    whole, *others = ask(local, [[piece for piece in each if piece] for each in pieces], answers)
    assert len(whole) == answers
    assert whole[-1][0].startswith(f"HTTP/1.1 {status} ")
    assert "connection: close" in whole[-1][1]
    assert all(each == whole for each in others)


@pytest.mark.parametrize("request_of", [SHORT, as_json()])
def test_told_to_stop_a_server_answers_what_it_had_begun_to_read(local: Local, run: Run, request_of: bytes) -> None:
    async def stops(connection: Connection, wire: Wire) -> None:
        connection.data_received(request_of[:-10])
        await asyncio.sleep(0.01)
        local.app.is_closing = True
        connection.shutdown()
        assert not wire.is_closed
        connection.data_received(request_of[-10:] + SHORT)
        await until(lambda: wire.is_closed)

    try:
        ((status, headers, _),) = said(run(stops))
    finally:
        local.app.is_closing = False
    assert status == "HTTP/1.1 200 OK"
    assert "connection: close" in headers


def test_what_is_kept_of_a_request_holds_none_of_its_numbers(local: Local) -> None:
    ask(local, [[asking(id="kept")], [asking(id="kept too")[:-9], asking(id="kept too")[-9:]]])
    kept = local.app.lane._outlines["requests"]._kept.values()  # type: ignore[attr-defined]
    assert len(kept) == 2
    for outline in kept:
        assert outline.rows.inputs.base is None
        assert outline.asked.inputs.base is None


@pytest.mark.parametrize("request_of", [SHORT, GONE, asking(np.full_like(INPUTS, np.nan).tobytes())])
def test_an_open_connection_keeps_nothing_of_a_request_that_was_answered(
    local: Local, run: Run, request_of: bytes
) -> None:
    async def asks(connection: Connection, wire: Wire) -> None:
        connection.data_received(request_of[:-10])
        gathered: Any = connection.cycle
        connection.data_received(request_of[-10:])
        await until(lambda: bool(wire.writes))
        assert len(gathered.whole) == 0

    run(asks)


@pytest.mark.parametrize("come", [b"", SHORT[:-10], SHORT, UPLOAD[:-10], UPLOAD])
def test_nothing_keeps_a_connection_that_is_lost(local: Local, come: bytes) -> None:
    """No timer of it, so that what had come on it goes as well."""

    async def one() -> "weakref.ref[Connection]":
        async with connected(local.app) as (connection, wire):
            if come:
                connection.data_received(come)
                await asyncio.sleep(0)
            if come in (SHORT, UPLOAD):
                await until(lambda: bool(wire.writes))
            return weakref.ref(connection)

    async def breaks() -> None:
        local.app.lane = Lane(local.service, local.app)
        lost = await one()

        def is_gone() -> bool:
            gc.collect()
            return lost() is None

        await until(is_gone)  # a thread that has just answered lets go of the request a moment later

    asyncio.run(breaks())


@pytest.mark.parametrize("request_of", [SHORT, UPLOAD])
def test_of_who_does_not_read_answers_nothing_more_is_read(run: Run, request_of: bytes) -> None:
    async def asks(connection: Connection, wire: Wire) -> None:
        connection.data_received(request_of)
        connection.data_received(request_of)
        connection.pause_writing()
        await until(lambda: len(wire.writes) == 1)
        await asyncio.sleep(0.02)
        assert len(wire.writes) == 1
        assert wire.is_reading_paused
        connection.resume_writing()
        await until(lambda: len(wire.writes) == 2)
        connection.pause_writing()
        assert wire.is_reading_paused
        connection.resume_writing()
        assert not wire.is_reading_paused

    run(asks)


def test_one_timer_gives_up_all_that_is_late(local: Local, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.service.models["requests"].engine, "submit_all", lambda jobs: [])  # nobody is answered
    looks = 0

    async def asks(connection: Connection, wire: Wire) -> None:
        lane: Any = local.app.lane
        look = lane._look

        def counted() -> None:
            nonlocal looks
            looks += 1
            look()

        monkeypatch.setattr(lane, "_look", counted)
        connection.data_received(SHORT)
        connection.data_received(SHORT)  # it is held back until the one before it is given up
        await until(lambda: len(wire.writes) == 2)
        await asyncio.sleep(0.1)

    timeout = local.service.config.timeout
    object.__setattr__(local.service.config, "timeout", 0.05)
    try:
        found = said(run(asks))
    finally:
        object.__setattr__(local.service.config, "timeout", timeout)
    assert [status[:12] for status, _, _ in found] == ["HTTP/1.1 504"] * 2
    assert looks == 2


def test_who_may_not_ask_is_told_so_however_much_there_is_to_do(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = local.service.models["requests"].engine
    monkeypatch.setattr(engine, "refusal", lambda timeout: too_busy(1))
    for token, status in ((WARD, 429), (OTHER, 403), ("c" * 40, 401)):
        request = asking(token=token)
        for ((line, _, _),) in ask(local, [[request], [request[:-10], request[-10:]]]):
            assert line.startswith(f"HTTP/1.1 {status} ")


def test_clients_of_others_go_the_short_way_with_small_and_large_bodies(forms: Callable[[str], Path]) -> None:
    with (
        listening(forms("requests"), max_batch=ROWS, max_queue=ROWS) as (local, address),
        triton.InferenceServerClient(address) as client,
    ):
        client.is_server_live()  # it waits until the server is there
        for rows in (1, ROWS):
            inputs = np.repeat(INPUTS, rows, axis=0)
            tensor = triton.InferInput("pixel_values", list(inputs.shape), "FP32")
            tensor.set_data_from_numpy(inputs, binary_data=True)
            before = local.app.lane.answered  # type: ignore[attr-defined]
            found = client.infer("requests", [tensor]).as_numpy("probabilities")
            assert found is not None
            assert len(found) == rows
            assert local.app.lane.answered == before + 1  # type: ignore[attr-defined]
            assert by_http_client(address, inputs) == found.tobytes()
            assert local.app.lane.answered == before + 2  # type: ignore[attr-defined]


def by_http_client(address: str, inputs: np.ndarray[Any, Any]) -> bytes:
    """The probabilities."""
    entry = {
        "name": "pixel_values", "datatype": "FP32", "shape": inputs.shape,
        "parameters": {"binary_data_size": inputs.nbytes},
    }  # fmt: skip
    wanted = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    text = json.dumps({"inputs": [entry], "outputs": wanted}).encode()
    connection = http.client.HTTPConnection(address, timeout=600)
    headers = {"Inference-Header-Content-Length": str(len(text))}
    connection.request("POST", PATH, text + inputs.tobytes(), headers)
    answer = connection.getresponse()
    body, length = answer.read(), answer.headers["Inference-Header-Content-Length"]
    connection.close()
    return body[int(length) :]
