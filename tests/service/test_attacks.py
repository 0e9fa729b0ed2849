"""What somebody says on a connection to do harm: one error and the end of it, and nothing of it in the log."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making.served import Local, listening
from pfm_export.service import connection as connections
from pfm_export.service import worker

INPUTS = np.zeros((1, 3, 8, 8), np.float32)
ENTRY: dict[str, Any] = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8]}
BODY = {"inputs": [{**ENTRY, "data": INPUTS.tolist()}]}
INFER = "/v2/models/shared/infer"
HIDDEN = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"  # to be smuggled in
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
SECONDS = 0.3


@pytest.fixture(scope="module")
def server(forms: Callable[[str], Path]) -> Iterator[tuple[Local, int]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connections, "HEAD_SECONDS", SECONDS)
        patch.setattr(worker, "KEEP_ALIVE", 1)
        with listening(forms("shared"), max_mib=1, timeout=SECONDS) as (local, address):
            yield local, int(address.rpartition(":")[2])


def said(port: int, *parts: bytes) -> bytes:
    """All that the server says until it ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):  # it may have heard enough before all is said
            for part in parts:
                connection.sendall(part)
                time.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(1 << 16):
                found += part
        return found


SMUGGLING: dict[str, bytes] = {
    "a length and chunks": b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
    "a length with a sign": b"Content-Length: +0\r\n\r\n",
    "a length in a list": b"Content-Length: 0, 5\r\n\r\n",
    "another coding": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding in disguise": b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded coding and a length": b"Content-Length: 4\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "no number for a chunk": b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk below zero": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a chunk of 2^64": b"Transfer-Encoding: chunked\r\n\r\n10000000000000000000000000\r\n",
    "a chunk longer than it says": b"Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
    "ten thousand chunks of a byte": b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
    "a name with a zero": b"X\0Y: z\r\n\r\n", "a long head": b"X: " + b"a" * 400_000 + b"\r\n\r\n",
    "a length above the limit": b"Content-Length: 9999999\r\n\r\n",
    "a compressed body": b"Content-Encoding: gzip\r\nContent-Length: 40\r\n\r\n",
    "two tokens": b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\nContent-Length: 0\r\n\r\n",
    "a body that does not come": b"Content-Length: 400\r\n\r\n",
    "another host": b"Content-Length: 0\r\nX-Forwarded-Host: a\r\nHost: example.org\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("what", SMUGGLING)
def test_a_request_behind_a_bad_one_is_not_answered(server: tuple[Local, int], what: str) -> None:
    answer = said(server[1], HEAD + SMUGGLING[what] + HIDDEN)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert answer.startswith(b"HTTP/1.1 4")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    assert list(json.loads(body)) == ["error"]


def test_a_connection_that_says_next_to_nothing_is_ended(server: tuple[Local, int]) -> None:
    assert said(server[1], b"GET /v2 HT", b"T").startswith(b"HTTP/1.1 408 ")
    assert said(server[1], HIDDEN, b"GET /v2 HTTP/1.1\r\nX: ", b"y").count(b"HTTP/1.1 ") == 2  # also behind a good one
    assert said(server[1]) == b""


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(server: tuple[Local, int], method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 600)  # however long this process does not get to speak
    for path in ("/", "/v2", INFER, "/v1/predict", "/metrics", "/v1/models/shared/erase"):
        request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX-Secret: zzyzx\r\n\r\n"
        answer = said(server[1], request.encode())
        assert answer.startswith(b"HTTP/1.1 405 "), path
        assert b"zzyzx" not in answer


NAMES = [
    "..%2f..%2fetc",
    "%2e%2e",
    "a%0d%0aX:%20y",
    "%00",
    "%ff",
    "shared%20",
    "shared;x",
    "SHARED",
    "a" * 3000,
    "%E2%80%AE",
]


def test_names_lead_nowhere_and_nothing_of_them_is_in_log_and_metrics(
    server: tuple[Local, int], capsys: pytest.CaptureFixture[str]
) -> None:
    local, _ = server
    for name in NAMES:
        for answer in (
            local("POST", f"/v2/models/{name}/infer", json=BODY), local("GET", f"/v2/models/{name}"),
            local("POST", f"/v1/predict?model={name}", content=b"x"),
            local("POST", f"/v1/models/{name}/erase", json={"classes": ["red"]}),
        ):  # fmt: skip
            assert answer.status_code == 404, name
            assert list(answer.json()) == ["error"]
            assert "\n" not in answer.text
            assert not [header for header in answer.headers if header.lower() == "x"]
    for name in ("re\nd", "red\r\n{}", "\u202e", "a" * 3000):
        asked = {**BODY, "id": name, "parameters": {"active": [name]}}
        assert local("POST", INFER, json=asked).status_code == 400
        change = {"classes": [name], "reason": name, "requested_by": name, "request_id": name[:500]}
        assert local("POST", "/v1/models/shared/erase", json=change).status_code == 400
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all(set(line) >= {"time", "event"} for line in lines)
    for line in lines:
        line.pop("request", "")  # random digits, which may be any of those below
    metrics = re.sub(r" \S+$", "", local("GET", "/metrics").text, flags=re.M)  # the numbers may have any digits
    for text in (json.dumps(lines), metrics):
        assert not any(name in text for name in ("etc", "SHARED", "aaaa", "re\\nd", "202e", "zzyzx", "127.0.0.1"))


ODD: dict[str, dict[str, Any]] = {
    "a parameter of an input": {"inputs": [{**BODY["inputs"][0], "parameters": {"shared_memory_region": "a"}}]},
    "a parameter of an output": {**BODY, "outputs": [{"name": "labels", "parameters": {"classification": 3}}]},
    "binary that is a text": {**BODY, "outputs": [{"name": "labels", "parameters": {"binary_data": "true"}}]},
    "binary that is a number": {**BODY, "parameters": {"binary_data_output": 1}},
    "a shape below zero": {"inputs": [{**BODY["inputs"][0], "shape": [-1, 3, 8, 8]}]},
    "a shape of 2^64": {"inputs": [{**BODY["inputs"][0], "shape": [2**62, 4, 8, 8]}]},
    "a shape of floats": {"inputs": [{**BODY["inputs"][0], "shape": [1.0, 3, 8, 8]}]},
    "a shape of bools": {"inputs": [{**BODY["inputs"][0], "shape": [True, 3, 8, 8]}]},
    "bytes": {"inputs": [{**BODY["inputs"][0], "datatype": "BYTES"}]},
    "integers": {"inputs": [{**BODY["inputs"][0], "datatype": "INT64"}]},
}  # fmt: skip


def test_what_a_request_says_and_the_server_would_not_heed_is_refused(server: tuple[Local, int]) -> None:
    local, _ = server
    for what, body in ODD.items():
        assert local("POST", INFER, json=body).status_code == 400, what
    for path in (f"{INFER}?without=red", "/v1/predict?withuot=red", "/v1/predict?model=shared&model=shared",
                 "/v1/predict?profile=a&profile=b", "/v1/models/shared/erase?classes=red"):  # fmt: skip
        assert local("POST", path, json=BODY).status_code == 400, path
    utf16 = json.dumps(BODY).encode("utf-16")
    assert local("POST", INFER, content=utf16, headers={"content-type": "application/json"}).status_code == 400
