"""What a server refuses, and how: a status, one line of JSON, nothing of the inside; metrics and log name nobody."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from making.served import Local, listening, opened, until
from pfm_export.service.guard import BODIES_AT_ONCE
from pfm_export.service.metrics import size_class
from pfm_export.serving.bank import BANK

INPUTS = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
BODY = {
    "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": INPUTS.tolist()}]
}  # fmt: skip
INFER = "/v2/models/shared/infer"


@pytest.fixture(scope="module")
def local(forms: Callable[[str], Path]) -> Iterator[Local]:
    with opened(forms("shared"), max_mib=1) as found:
        yield found


def refusal(local: Local, method: str, path: str, **more: Any) -> tuple[int, str]:
    """Status and message, which is all that the client gets."""
    answer = local(method, path, **more)
    (message,) = answer.json().values()
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, message


def test_addresses_and_methods_that_are_not_there(local: Local) -> None:
    assert refusal(local, "GET", "/nothing")[0] == 404
    assert refusal(local, "GET", INFER)[0] == 405
    assert refusal(local, "POST", "/v2/models/other/infer", json=BODY) == (404, "there is no model 'other'")
    assert refusal(local, "POST", "/v2/models/shared/versions/2/infer", json=BODY)[0] == 404
    assert local("POST", "/v2/models/shared/versions/1/infer", json=BODY).status_code == 200
    assert refusal(local, "POST", "/v1/predict?model=other", content=b"x")[0] == 404


def test_a_body_that_is_not_a_request_or_not_a_file(local: Local) -> None:
    assert refusal(local, "POST", INFER, content=b"{")[0] == 400
    assert refusal(local, "POST", "/v1/predict", content=b"")[0] == 400
    status, message = refusal(local, "POST", "/v1/predict", files={"file": b"not a picture"})
    assert (status, message) == (400, "the body is a form; send the file alone, such as with curl --data-binary @FILE")
    status, message = refusal(local, "POST", "/v1/predict", content=b"not a picture")
    assert (status, message) == (400, "cannot read an image: it is not an image of a known kind")


def test_a_body_is_refused_by_its_announced_size_and_by_its_real_one(local: Local) -> None:
    assert refusal(local, "POST", INFER, content=b"x", headers={"content-length": str(2 << 20)})[0] == 413

    async def endless() -> Any:
        while True:
            yield b" " * (1 << 16)

    status, message = refusal(local, "POST", INFER, content=endless())
    assert (status, message) == (413, "the body has more than 1 MiB (--max_mib)")


def test_requests_that_two_servers_could_read_differently_are_refused(local: Local) -> None:
    for headers in (
        {"content-length": "1", "transfer-encoding": "chunked"},
        {"content-length": "+1"},
        {"content-length": "1" * 30},
        {"content-encoding": "gzip"},
        {"host": "example.org"},
        {"inference-header-content-length": "-1"},
    ):
        assert refusal(local, "POST", INFER, content=b"x", headers=headers)[0] in (400, 415, 421)


def test_classes_that_are_not_there_are_refused_and_none_may_be_left(local: Local) -> None:
    status, message = refusal(local, "POST", INFER, json={**BODY, "parameters": {"active": ["blu"]}})
    assert (status, message) == (400, "no class 'blu'; did you mean 'blue'? (classes: red, green, blue, grey)")
    every = ["red", "green", "blue", "grey"]
    assert refusal(local, "POST", INFER, json={**BODY, "parameters": {"without": every}})[0] == 400
    assert refusal(local, "POST", INFER, json={**BODY, "parameters": {"profile": "ward"}})[0] == 400


def test_a_bug_is_a_number_for_the_client_and_a_place_in_the_log(
    local: Local, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(local.service.models["shared"], "view", fails)
    status, message = refusal(local, "POST", INFER, json=BODY)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    bug = next(line for line in lines if line["event"] == "bug")
    assert status == 500
    assert bug["request"] in message
    assert bug["error"] == "ZeroDivisionError"
    assert any("fails" in place for place in bug["places"])
    assert "secret" not in json.dumps(lines) + message


def test_metrics_and_log_tell_how_much_and_how_long_and_name_no_class(
    local: Local, capsys: pytest.CaptureFixture[str]
) -> None:
    local("POST", INFER, json={**BODY, "parameters": {"without": ["blue"]}})
    refusal(local, "POST", "/v1/predict?active=blue&active=Zoe", content=b"x")
    text = local("GET", "/metrics").text
    assert 'pfm_requests_total{model="shared",route="infer",status="200"}' in text
    assert 'pfm_request_seconds_count{active="4",model="shared",route="infer"}' in text
    assert 'pfm_refusals_total{why="class"}' in text
    assert "pfm_batch_rows_bucket" in text
    said = text + capsys.readouterr().err
    assert not {"red", "green", "blue", "grey", "Zoe", "localhost"} & set(re.findall(r"\w+", said))


def test_active_sets_are_counted_in_powers_of_two() -> None:
    assert [size_class(count) for count in (1, 2, 3, 4, 5, 1000)] == ["1", "2", "4", "4", "8", "1024"]


def test_the_page_of_the_interface_knows_every_route(local: Local) -> None:
    paths = local("GET", "/openapi.json").json()["paths"]
    assert {"/v2/models/{model}/infer", "/v1/predict", "/metrics", "/v2/health/ready"} <= set(paths)


def test_a_damaged_bundle_is_not_ready_and_says_so_without_its_place(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(forms("shared"), tmp_path / "shared"))
    with opened(folder) as local:
        assert local("GET", "/v2/health/ready").status_code == 200
        (folder / BANK).write_bytes(b"damaged")
        assert local("GET", "/v2/health/ready").status_code == 503
        assert local("GET", "/v2/models/shared/ready").status_code == 503
        assert local("GET", "/v2/health/live").status_code == 200
        status, message = refusal(local, "POST", INFER, json=BODY)
        assert status == 503
        assert str(tmp_path) not in message


def test_over_a_socket_too_a_bad_head_gets_an_answer_and_the_connection_ends(forms: Callable[[str], Path]) -> None:
    with listening(forms("shared"), max_mib=1, timeout=0.2) as (local, address):
        host, _, port = address.partition(":")

        def said(request: bytes) -> bytes:
            with socket.create_connection((host, int(port)), timeout=600) as connection:
                connection.sendall(request)
                return b"".join(iter(lambda: connection.recv(1 << 16), b""))

        head = f"POST {INFER} HTTP/1.1\r\nHost: {address}\r\n".encode()
        both = said(head + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert both.startswith(b"HTTP/1.1 400 ")
        assert said(head + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc").startswith(b"HTTP/1.1 400 ")
        assert said(head + b"Content-Length : 3\r\n\r\nabc").startswith(b"HTTP/1.1 400 ")
        assert said(head + b"Content-Length: 9999999\r\n\r\nabc").startswith(b"HTTP/1.1 413 ")
        assert said(head + b"Content-Length: 30\r\n\r\nabc").startswith(b"HTTP/1.1 408 ")  # the rest never comes
        until(lambda: local.service.metrics.text().count(b"pfm_refusals_total{") >= 3)  # counted once it is answered
    assert BODIES_AT_ONCE > 1
