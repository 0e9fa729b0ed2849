"""Malformed requests to a server of its own, one after the other: what each was answered, and what it cost."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pfm.storage import Json
from pfm_bench.measuring.served import OwnServer, own_server
from pfm_bench.scenarios.malformed import GOOD, INFER, Malformed, post
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm

MOST_MS, MOST_MIB = 500, 200  # that one of them may cost
WAITED = 408  # for the rest of a request, as long as the server's --timeout says
SHOWN = 3  # of each kind, the slowest
OPTIONS = ("--device", "cpu", "--threads", "1", "--timeout", "2")
LENGTH = re.compile(rb"content-length: (\d+)")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one request.

    Attributes:
        answer: all bytes of it.
        cpu_ms: what the server computed.
        wall_ms: until the answer was there, or the connection ended.
        peak_mib: memory above what the server held before the first of them.
    """

    request: Malformed
    answer: bytes
    cpu_ms: float
    wall_ms: float
    peak_mib: float

    @property
    def status(self) -> int:
        """Of HTTP; 0 where there was no answer."""
        return int(self.answer.split(b" ", 2)[1]) if self.answer.startswith(b"HTTP/1.1 ") else 0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of all of them.

    Attributes:
        is_unharmed: a good request was answered alike before and behind them.
        log: what the server said.
    """

    each: tuple[Cost, ...]
    is_unharmed: bool
    log: str

    def to_dict(self) -> Json:
        """By kind: how many, and the costliest."""
        grouped: dict[str, list[Cost]] = {}
        for cost in self.each:
            grouped.setdefault(cost.request.fault, []).append(cost)
        faults: dict[str, Json] = {}
        for fault, of_it in grouped.items():
            slowest = sorted(of_it, key=lambda cost: -cost.cpu_ms)[:SHOWN]
            statuses = sorted({cost.status for cost in of_it})
            faults[fault] = {
                "count": len(of_it),
                "statuses": {str(status): sum(cost.status == status for cost in of_it) for status in statuses},
                "most_mib": round(max(cost.peak_mib for cost in of_it), 1),
                "slowest": [
                    {"name": cost.request.name, "cpu_ms": round(cost.cpu_ms, 1), "wall_ms": round(cost.wall_ms, 1)}
                    for cost in slowest
                ],
            }
        return {
            "requests": len(self.each),
            "slowest_cpu_ms": round(max(cost.cpu_ms for cost in self.each), 1),
            "slowest_wall_ms": round(max(cost.wall_ms for cost in self.each if cost.status != WAITED), 1),
            "most_mib": round(max(cost.peak_mib for cost in self.each), 1),
            "is_unharmed": self.is_unharmed,
            "kinds": faults,
        }


def write_bundles(folder: Path) -> list[str]:
    """The bundles that the requests are for, as `pfm serve` takes them."""
    for name, shape in (("shared", "scratch:vit_digits"), ("sounds", "scratch:ast_mini")):
        export_bundle(random_checkpoint(shape, num_classes=4, readout="cls"), folder / name, form=GraphForm())
    return [f"{name}={folder / name}" for name in ("shared", "sounds")]


def send_all(requests: Sequence[Malformed], folder: Path) -> Costs:
    """Send them to a server of two bundles that are written to a folder."""
    log = folder / "log"
    with own_server(write_bundles(folder), *OPTIONS, log=log) as server:
        good = post(INFER, json.dumps(GOOD).encode())
        expected, _ = body_of(say(server.port, good))
        before = server.resident_mib()
        each = tuple(_send(server, request, before) for request in requests)
        found, is_whole = body_of(say(server.port, good))
    return Costs(each=each, is_unharmed=is_whole and found == expected, log=log.read_text())


def _send(server: OwnServer, request: Malformed, before: float) -> Cost:
    server.forget_peak()
    cpu, begun = server.cpu_ms(), time.monotonic()
    answer = say(server.port, request.content)
    wall = 1000 * (time.monotonic() - begun)
    return Cost(
        request=request, answer=answer, cpu_ms=server.cpu_ms() - cpu, wall_ms=wall, peak_mib=server.peak_mib() - before
    )


def say(port: int, content: bytes) -> bytes:
    """A server's first answer to some bytes; what it said until then where it ends the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        found = b""
        with contextlib.suppress(ConnectionError):  # it has read enough
            connection.sendall(content)
        with contextlib.suppress(ConnectionResetError):  # what it did not read, it did not want
            while not body_of(found)[1] and (part := connection.recv(1 << 16)):
                found += part
        return found


def body_of(answer: bytes) -> tuple[bytes, bool]:
    """The body of the first answer in some bytes, and whether all of it is there."""
    head, is_there, body = answer.partition(b"\r\n\r\n")
    length = LENGTH.search(head)
    size = int(length[1]) if is_there and length is not None else len(body)
    return body[:size], bool(is_there) and length is not None and len(body) >= size
