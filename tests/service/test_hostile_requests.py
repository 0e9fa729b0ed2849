"""Five hundred requests that nobody should send: each is refused in one line, and the server goes on as before."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from making.hostile_requests import COUNT, GOOD, INFER, MIB, post, requests

LENGTH = re.compile(rb"content-length: (\d+)")
ROOT = Path(__file__).parent.parent.parent


def say(port: int, request: bytes) -> bytes:
    """A server's answer to some bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):  # it has read enough
            connection.sendall(request)
        with contextlib.suppress(ConnectionResetError):  # what it did not read, it did not want
            while not is_whole(found) and (part := connection.recv(1 << 16)):
                found += part
        return found


def is_whole(answer: bytes) -> bool:
    head, is_there, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    return bool(is_there) and length is not None and len(body) >= int(length[1])


def memory_kib(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


@pytest.mark.slow
def test_five_hundred_malformed_requests_are_refused_in_one_line_each(
    forms: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(forms("shared"), tmp_path / "shared"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
    command = [sys.executable, "-c", "from pfm.cli import main; main()", "serve", str(folder), "--port", "0"]
    with (tmp_path / "errors").open("w") as errors, subprocess.Popen(
        [*command, "--device", "cpu", "--timeout", "2"], stdout=subprocess.PIPE, stderr=errors, text=True,
        env={**os.environ, "PYTHONPATH": path},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().strip().rpartition(":")[2])
            (worker,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
            good = post(INFER, json.dumps(GOOD).encode())
            expected = say(port, good).partition(b"\r\n\r\n")[2]
            assert b'"labels"' in expected
            resident = memory_kib(worker, "VmRSS")
            slowest: list[tuple[float, str]] = []
            highest: list[tuple[int, str]] = []
            every = requests()
            assert len(every) == COUNT
            for name, request in every:
                Path(f"/proc/{worker}/clear_refs").write_text("5")  # the peak counts from here
                begun = time.monotonic()
                answer = say(port, request)
                slowest.append((time.monotonic() - begun, name))
                highest.append((memory_kib(worker, "VmHWM") - resident, name))
                check(name, answer)
            assert say(port, good).partition(b"\r\n\r\n")[2] == expected
            assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name in before} == before
        finally:
            process.send_signal(signal.SIGTERM)
    said = (tmp_path / "errors").read_text()
    assert "Traceback" not in said
    log = [json.loads(line) for line in said.splitlines() if line.startswith("{")]  # libtiff writes there as well
    print([line for line in said.splitlines() if not line.startswith("{")])
    assert [line for line in log if line["event"] in ("bug", "worker ended") or "error" in line] == []
    assert max(highest)[0] < 200 * MIB // 1024, sorted(highest)[-5:]
    # how long they take is for a quiet machine to say: pytest -m slow -s
    print(f"slowest: {[(round(1000 * seconds), name) for seconds, name in sorted(slowest)[-5:]]} ms")
    print(f"most memory: {[(kib // 1024, name) for kib, name in sorted(highest)[-5:]]} MiB")


def check(name: str, answer: bytes) -> None:
    """A status that blames the client, one line, no traceback; or nothing, where the client said nothing whole."""
    assert b"Traceback" not in answer, name
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ") or not answer, name
    if answer:
        status = int(head.split()[1])
        assert status < 500 or status == 504, (name, answer)  # asked to answer within a microsecond, it may not
        if status >= 400 and (
            length := re.search(rb"content-length: (\d+)", head)
        ):  # of the first, where it saw several
            body = body[: int(length[1])]
            assert b"\n" not in body, name
            assert not body or list(json.loads(body)) == ["error"], (name, body)
