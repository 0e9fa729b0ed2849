"""`pfm serve` as a user starts it: workers on one port, killed, told to stop, and asked while a class is erased."""

import datetime
import errno
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from making.commands import Refuse
from making.logs import log_records
from making.served import listening, until
from pfm_export.service import supervisor
from pfm_export.service.config import ServeConfig
from pfm_export.service.orders import Named, Order, named_bundles, records_folder
from pfm_export.service.supervisor import check_tls, shares

ROOT = Path(__file__).parent.parent.parent
INPUTS = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
BODY = {
    "inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": INPUTS.tolist()}]
}  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Server:
    """A server that runs."""

    def __init__(self, process: "subprocess.Popen[str]", errors: Path) -> None:
        self.process = process
        self.errors = errors
        assert process.stdout is not None
        self.address = process.stdout.readline().strip().removeprefix("serving on ")

    def workers(self) -> list[int]:
        return children(self.process.pid)

    def log(self) -> list[dict[str, Any]]:
        return log_records(self.errors)


@pytest.fixture
def server(forms: Callable[[str], Path], tmp_path: Path) -> Iterator[Server]:
    folder = shutil.copytree(forms("shared"), tmp_path / "shared")
    path = os.pathsep.join(str(ROOT / part) for part in (".", "export", "bench"))
    arguments = ["serve", str(folder), "--port", "0", "--workers", "2", "--device", "cpu", "--drain", "600"]
    command = [sys.executable, "-c", "from pfm.cli import main; main()", *arguments]
    with (tmp_path / "errors").open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "PYTHONPATH": path}
        )
    try:
        yield Server(process, tmp_path / "errors")
    finally:
        process.terminate()
        process.wait(900)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    return Refuse(capsys)


def classes(client: httpx.Client) -> list[str]:
    answer = client.post("/v2/models/shared/infer", json=BODY)
    assert answer.status_code == 200, answer.text
    return answer.json()["outputs"][1]["data"]


def counted(client: httpx.Client) -> float:
    """Requests that were answered, by the metrics."""
    found = re.findall(r'^pfm_requests_total{model="shared",route="infer".* (\S+)$', client.get("/metrics").text, re.M)
    return sum(map(float, found))


@pytest.mark.slow
def test_every_request_that_starts_after_an_erasures_answer_is_answered_without_the_class(server: Server) -> None:
    answered, stop = threading.Event(), threading.Event()
    wrong: list[list[str]] = []
    asked = [0]

    def ask() -> None:
        while not stop.is_set():  # a connection each, so that both workers are asked
            is_after = answered.is_set()
            with httpx.Client(base_url=server.address, timeout=600) as client:
                found = classes(client)
            asked[0] += 1
            if is_after and "blue" in found:
                wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    with httpx.Client(base_url=server.address, timeout=600) as client:
        until(lambda: asked[0] > 40)
        erased = client.post("/v1/models/shared/erase", json={"classes": ["blue"], "request_id": "r"})
        answered.set()
        assert erased.status_code == 200
        before = asked[0]
        until(lambda: asked[0] > before + 80)
        stop.set()
        for thread in threads:
            thread.join()
        assert wrong == []
        until(lambda: counted(client) == asked[0])  # by both workers together, each once it has answered
        assert 'pfm_changes_total{model="shared",what="erase"} 1.0' in client.get("/metrics").text


@pytest.mark.slow
def test_a_killed_worker_loses_its_own_requests_and_is_started_again(server: Server) -> None:
    first, second = server.workers()
    maps = Path(f"/proc/{first}/maps").read_text() + Path(f"/proc/{server.process.pid}/maps").read_text()
    assert "onnxruntime" in maps
    assert "libtorch" not in maps
    os.kill(first, signal.SIGKILL)
    for _ in range(20):
        with httpx.Client(base_url=server.address, timeout=600) as client:
            assert len(classes(client)) == 4
    until(lambda: len(server.workers()) == 2 and first not in server.workers())
    assert second in server.workers()
    assert any(line["event"] == "worker ended" and line["code"] == -signal.SIGKILL for line in server.log())


@pytest.mark.slow
def test_told_to_stop_it_answers_what_it_has_and_ends_well(server: Server) -> None:
    answers: list[int] = []

    def ask() -> None:
        with httpx.Client(base_url=server.address, timeout=600) as client:
            for _ in range(10_000):
                try:
                    answers.append(client.post("/v2/models/shared/infer", json=BODY).status_code)
                except httpx.TransportError:
                    return  # between two requests the connection was closed, or nobody listens any more

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(answers) > 20)
    workers = server.workers()
    server.process.terminate()
    assert server.process.wait(300) == 0  # the drain alone has 600 s
    thread.join()
    assert set(answers) <= {200, 503}
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.slow
def test_workers_and_their_clerks_end_when_the_process_that_started_them_is_killed(server: Server) -> None:
    workers = server.workers()
    clerks = [pid for worker in workers for pid in children(worker)]
    assert len(clerks) == len(workers)
    server.process.kill()
    until(lambda: not any(Path(f"/proc/{pid}/fd").exists() for pid in (*workers, *clerks)))


def test_a_worker_that_cannot_be_started_again_is_tried_again_later_and_ends_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no memory for one, or it ends before it is told what to do."""
    now = 1000.0
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now)
    order = Order(bundles=(), config=ServeConfig(), descriptor=1, threads=1, cores=())
    worker = supervisor._Worker(order, tmp_path)
    popen, kept = subprocess.Popen, list[Any]()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def dead(*_: object, **more: Any) -> "subprocess.Popen[str]":
        pipes = {name: more[name] for name in ("stdin", "stdout", "text")}
        kept.append(popen([sys.executable, "-S", "-c", ""], **pipes))
        kept[-1].wait()
        return kept[-1]

    for number, (start, wait) in enumerate(((refuse, 1.0), (refuse, 2.0), (dead, 4.0))):
        monkeypatch.setattr(supervisor.subprocess, "Popen", start)
        worker.look()
        if start is dead:
            worker.look()
        line = json.loads(capsys.readouterr().err)
        assert line["event"] == ("worker ended" if start is dead else "worker not started"), number
        assert line["again_in_seconds"] == wait
        now += wait
    assert len(kept) == 1


# --- what is settled before anything runs -----------------------------------------------------------


def test_a_bundle_is_called_like_its_folder_or_as_is_said(tmp_path: Path, refuse: Refuse) -> None:
    assert named_bundles([str(tmp_path / "a"), f"b={tmp_path}/a"]) == [
        Named("a", tmp_path / "a"), Named("b", tmp_path / "a")
    ]  # fmt: skip
    assert "cannot be a model's name" in refuse("serve", tmp_path / "a b")
    assert "two bundles are called 'a'" in refuse("serve", tmp_path / "a", tmp_path / "c" / "a")


def test_options_that_make_no_sense_are_refused_before_anything_is_loaded(
    tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options, text in (
        (["--tls_cert", "c.pem"], "both --tls_cert and --tls_key"),
        (["--max_queue", "2"], "no batch fits"),
        (["--answer_within", "20"], "--answer_within 20 is longer than --timeout 10"),
        (["--records", tmp_path / "a" / "records"], "its signing key would go wherever that goes"),
        (["--records", __file__], f"{__file__} is a file; name another one"),
        (["--records", Path(__file__) / "records"], f"{__file__} is a file; name another one"),
        (["--tokens", tmp_path / "none"], "cannot read"),
        (["--tokens", tmp_path], "not an ordinary file"),
        (["--tls_cert", tmp_path / "none", "--tls_key", __file__], "No such file"),
        (["--tls_cert", __file__, "--tls_key", __file__], "are not a certificate"),
    ):
        assert text in refuse("serve", tmp_path / "a", *options)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"{tmp_path} cannot be written" in refuse("serve", tmp_path / "a", "--records", tmp_path / "records")
    # not where none was named: a bundle may be mounted for reading only
    assert records_folder([Named("a", tmp_path / "a")], ServeConfig()) == tmp_path / "a.records"


def test_what_cannot_be_served_is_refused_before_it_listens(
    forms: Callable[[str], Path], tmp_path: Path, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert "cannot listen on 203.0.113.1" in refuse("serve", forms("shared"), "--host", "203.0.113.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "Address already in use" in refuse("serve", forms("shared"), "--port", port)
    assert not list(tmp_path.glob("pfm-*"))
    monkeypatch.setattr(supervisor, "bind", None)
    for bundle in (tmp_path / "none", tmp_path, Path(__file__)):
        assert f"there is no bundle at {bundle}" in refuse("serve", forms("shared"), f"other={bundle}")


def test_with_a_certificate_it_speaks_https(forms: Callable[[str], Path], tmp_path: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )  # fmt: skip
    check_tls(ServeConfig(tls_cert=cert_file, tls_key=key_file))
    trust = ssl.create_default_context(cafile=str(cert_file))
    with listening(forms("shared"), tls_cert=cert_file, tls_key=key_file) as (_, address):
        port = address.rpartition(":")[2]
        with httpx.Client(verify=trust, timeout=600) as client:
            assert client.get(f"https://localhost:{port}/v2/health/ready").json() == {"ready": True}


def test_what_a_worker_is_told_arrives_as_it_was_meant(tmp_path: Path) -> None:
    config = ServeConfig(tokens=tmp_path / "tokens.json", threads=3, max_batch=4)
    order = Order(bundles=(Named("a", tmp_path),), config=config, descriptor=3, threads=1, cores=(0, 1))
    assert Order.of_line(order.to_line()) == order


def test_workers_share_the_cores_and_one_alone_takes_what_the_session_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert shares(ServeConfig(), 0) == (0, ())
    assert [shares(ServeConfig(workers=3), number) for number in range(3)] == [(2, (0, 1)), (2, (2, 3)), (2, (4, 5))]
    assert shares(ServeConfig(workers=8), 7) == (1, ())
    assert shares(ServeConfig(workers=3, threads=5), 1) == (5, ())
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # the process was given seven of them
    assert shares(ServeConfig(), 0) == (7, ())


def test_only_this_machine_is_listened_to_unless_told_otherwise() -> None:
    assert ServeConfig().is_local
    assert ServeConfig(host="::1").is_local
    assert not ServeConfig(host="0.0.0.0").is_local
    assert not ServeConfig(host="example.org").is_local
