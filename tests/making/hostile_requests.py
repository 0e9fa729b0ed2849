"""Five hundred requests that are not what a server expects: heads, bodies, documents, files; always the same ones.

Some of what is made by changing a good request at random may still be one.
"""

import copy
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

COUNT = 500
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
ENTRY: dict[str, Any] = {"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 8, 8]}
GOOD: dict[str, Any] = {
    "id": "1",
    "inputs": [{**ENTRY, "data": INPUTS.reshape(-1).round(3).tolist()}],
    "outputs": [{"name": "labels", "parameters": {"binary_data": False}}],
    "parameters": {"active": ["red", "blue"], "timeout": 1_000_000},
}
CHANGE: dict[str, Any] = {"classes": ["nobody"], "request_id": "r", "reason": "x", "profile": "none"}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, "", "x", "[", "\u0000", "../../etc/passwd", "é" * 500, [], {}, [[]],
    [None], {"a": []}, ["red"] * 2000, [1, "a"], "9" * 5000,
)  # fmt: skip
INFER, PREDICT, ERASE = "/v2/models/shared/infer", "/v1/predict", "/v1/models/shared/erase"
MIB = 1 << 20


def requests() -> list[tuple[str, bytes]]:
    """Name and bytes of each, for a server of one bundle called `shared`."""
    found = [*heads(), *large(), *documents(), *binaries(), *files()]
    random = np.random.default_rng(1)
    while len(found) < COUNT:
        found.append((f"changed bytes {len(found)}", changed(random)))
    return found[:COUNT]


def post(path: str, body: bytes, *more: str, kind: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def heads() -> Iterator[tuple[str, bytes]]:
    body = json.dumps(GOOD).encode()
    for lines in (
        ["Content-Length: 5", "Transfer-Encoding: chunked"], ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"], ["Content-Length: 5, 6"], ["Content-Length: -5"],
        ["Content-Length: 0x5"], ["Content-Length: 5_0"], ["Content-Length: ٥"], ["Content-Length : 5"],
        [" Content-Length: 5"], ["Content-Length: 99999999999999999999"], ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: xchunked"], ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding:\x0bchunked"], ["Content-Length: 5", "Content-Encoding: gzip"], ["Content-Length: 5\nX: y"],
        ["X\x00: y", "Content-Length: 5"], ["Content-Length: 5", "Inference-Header-Content-Length: -1"],
        ["Content-Length: 5", "Inference-Header-Content-Length: 99999999999999999999"],
        ["Content-Length: 5", "Inference-Header-Content-Length: 1e3"], ["Content-Length: 5", f"X: {'a' * 200_000}"],
        [*(f"X{number}: y" for number in range(20_000)), "Content-Length: 5"], ["Expect: nothing", "Content-Length: 5"],
        ["Content-Length: 5", "Authorization: Bearer \x7f"], ["Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"],
    ):  # fmt: skip
        head = "\r\n".join([f"POST {INFER} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
        yield f"head {str(lines)[:60]}", head + b"5\r\nhello\r\n0\r\n\r\n"
    for first in (
        "GET", "GET / HTTP/9.9", "GET / HTTP/1.1 x", "\x16\x03\x01\x02", "PRI * HTTP/2.0",
        f"GET /{'a' * 100_000} HTTP/1.1",
        "GET http://example.org/ HTTP/1.1", "TRACE / HTTP/1.1", "CONNECT localhost:1 HTTP/1.1", "GET /%00 HTTP/1.1",
        "GET /v2/models/..%2f..%2fetc HTTP/1.1", "GET /v2/models/%ff/ready HTTP/1.1", "get / HTTP/1.1",
        "GET /v2/models/shared/versions/%0a HTTP/1.1", f"GET /v1/predict?{'a=b&' * 10_000} HTTP/1.1",
        "GET /v2/models/" + "x" * 5000 + " HTTP/1.1", "OPTIONS * HTTP/1.1", "DELETE /v2/models/shared HTTP/1.1",
    ):  # fmt: skip
        yield f"line {first[:40]}", f"{first}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    yield "no host", f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    yield "two hosts", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n\r\n"
    yield "another host", b"GET /v2 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"
    chunked = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    yield "bad chunks", chunked + b"zz\r\n"
    yield "huge chunk", chunked + b"ffffffffffffffff\r\n"


def large() -> Iterator[tuple[str, bytes]]:
    for name, body in (
        ("lists", b'{"a":[' + b"[]," * (5 * MIB // 3) + b"1]}"),
        ("objects", b'{"a":[' + b"{}," * (5 * MIB // 3) + b"1]}"),
        ("numbers", b'{"inputs":[' + b"1.5," * (7 * MIB // 4) + b"1]}"), ("depth", b"[" * (7 * MIB)),
        ("keys", b"{" + b",".join(b'"%d":1' % number for number in range(500_000)) + b"}"),
        ("texts", b'{"inputs":[' + b'"ab",' * (7 * MIB // 5) + b"1]}"), ("digits", b'{"a":' + b"9" * (7 * MIB) + b"}"),
        ("deep objects", b'{"a":' * 90_000), ("JSON above the limit", b" " * (9 * MIB)),
        ("a body above the limit", b" " * (17 * MIB)), ("escapes", b'{"a":"' + b"\\u0041" * MIB + b'"}'),
        ("one long text among short ones", json.dumps(
            {"inputs": [{**ENTRY, "data": ["a"] * 90_000 + ["b" * MIB]}]}
        ).encode()),
        ("rows", json.dumps({"inputs": [{**ENTRY, "shape": [10**6, 3, 8, 8], "data": [0]}]}).encode()),
        ("UTF-16", json.dumps(GOOD).encode("utf-16")), ("a zero", b"\0" * MIB),
    ):  # fmt: skip
        yield f"large {name}", post(INFER, body)
        if len(body) < 2 * MIB:
            yield f"large {name} to erase", post(ERASE, body)


def documents() -> Iterator[tuple[str, bytes]]:
    for good, path in ((GOOD, INFER), (CHANGE, ERASE)):
        for place in places(good):
            for number, odd in enumerate(ODD):
                document = copy.deepcopy(good)
                inner: Any = document
                for key in place[:-1]:
                    inner = inner[key]
                inner[place[-1]] = odd
                if (len(place) * 7 + number) % 2 == 0:
                    yield f"{path} {place} is {str(odd)[:20]}", post(path, json.dumps(document).encode())


def places(document: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Where in a document something can be replaced; of a long list only the first."""
    entries = document.items() if isinstance(document, dict) else list(enumerate(document))[:1]
    for key, value in entries:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def binaries() -> Iterator[tuple[str, bytes]]:
    raw = INPUTS.tobytes()
    for size, behind in (
        (len(raw), raw[:-1]), (len(raw) + 1, raw + b"x"), (-1, raw), (10**18, raw), ("7", raw), (0, b""), (None, raw),
        (len(raw), np.full_like(INPUTS, np.nan).tobytes()), (len(raw), np.full_like(INPUTS, np.inf).tobytes()),
        (len(raw), np.full_like(INPUTS, 255).tobytes()),
    ):  # fmt: skip
        text = json.dumps({"inputs": [{**ENTRY, "parameters": {"binary_data_size": size}}]}).encode()
        for length in (len(text), len(text) - 1, len(text) + 1, 0, 10**9):
            yield f"binary {size} {length}", post(INFER, text + behind, f"Inference-Header-Content-Length: {length}")


def files() -> Iterator[tuple[str, bytes]]:
    def png(width: int, height: int, data: bytes = b"") -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")

    text = zlib.compress(b"a" * (64 * MIB), 9)
    bomb = struct.pack(">I", len(text) + 3) + b"zTXta\0\0" + text
    bomb += struct.pack(">I", zlib.crc32(bomb[4:]))
    gif = b"GIF89a" + struct.pack("<HH", 65535, 65535) + b"\x80\0\0" + b"\0\0\0\xff\xff\xff,"
    gif += struct.pack("<HHHH", 0, 0, 65535, 65535) + b"\0\x02\x02L\x01\0;"
    bmp = b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 10**6, 10**6, 1, 24, *[0] * 6)
    for name, content in (
        ("nothing", b""), ("text", b"hello"), ("10^10 pixels", png(100_000, 100_000)), ("2^62 pixels", png(-1, -1)),
        ("30 million pixels", png(6000, 5000)), ("no pixels", png(0, 0)), ("a cut PNG", png(8, 8)[:50]),
        ("PNG text bomb", png(8, 8, bomb)), ("GIF of 2^32", gif), ("BMP of 10^12", bmp),
        ("a PPM", b"P6 1000000 1000000 255\n"),
        ("EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n"),
        ("a cut JPEG", b"\xff\xd8\xff\xe0\0\x10JFIF\0"), ("TIFF of tags", b"II*\0\x08\0\0\0\xff\xff" + b"\xff" * 200),
        ("a zip", b"PK\3\4" + b"\0" * 500), ("a sound", b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0" + b"\0" * 99),
        ("DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64), ("zeros", b"\0" * (15 * MIB)),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ):  # fmt: skip
        yield f"file {name}", post(PREDICT, content, kind="application/octet-stream")
    for query in (
        "active=",
        "active=nobody",
        "without=" + "&without=".join(["red"] * 500),
        "model=..%2f..",
        "profile=%00",
    ):
        yield f"query {query[:20]}", post(f"{PREDICT}?{query}", png(8, 8))


def changed(random: np.random.Generator) -> bytes:
    """A good request with a few bytes changed, added or taken out."""
    path, good = ((INFER, GOOD), (ERASE, CHANGE))[int(random.integers(2))]
    body = bytearray(json.dumps(good).encode()[: int(random.integers(20, 4000))])
    for _ in range(int(random.integers(1, 6))):
        place = int(random.integers(len(body)))
        what = int(random.integers(3))
        if what == 0:
            body[place] = int(random.integers(256))
        elif what == 1:
            body.insert(place, int(random.integers(256)))
        else:
            del body[place : place + int(random.integers(1, 9))]
    return post(path, bytes(body))
