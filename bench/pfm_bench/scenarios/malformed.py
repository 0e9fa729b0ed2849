"""Five hundred requests that are not what a server expects: heads, bodies, documents, files; always the same ones.

Some of what is made by changing a good request at random may still be one. They are for a server of a bundle of images
called `shared` (8 pixels a side) and one of sounds called `sounds`, see `bundles`.
"""

import copy
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

Document: TypeAlias = "dict[str, Any]"  # of a request
COUNT = 500
INPUTS = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
ENTRY: Document = {"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 8, 8]}
GOOD: Document = {
    "id": "1",
    "inputs": [{**ENTRY, "data": INPUTS.reshape(-1).round(3).tolist()}],
    "outputs": [{"name": "labels", "parameters": {"binary_data": False}}],
    "parameters": {"active": ["class1", "class2"], "timeout": 1_000_000},
}
CHANGE: Document = {"classes": ["nobody"], "request_id": "r", "reason": "x", "profile": "none"}
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, 1e308, "", "x", "[", "\u0000", "../../etc/passwd", "é" * 500, [], {}, [[]],
    [None], {"a": []}, ["class1"] * 2000, [1, "a"], "9" * 5000,
)  # fmt: skip
INFER, PREDICT, ERASE = "/v2/models/shared/infer", "/v1/predict?model=shared", "/v1/models/shared/erase"
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """A request.

    Attributes:
        fault: what is wrong with it, in a word or two.
        name: of this one.
        content: bytes for the connection.
    """

    fault: str
    name: str
    content: bytes


def requests() -> list[Malformed]:
    """All of them, in order."""
    faults = {
        "head": heads(), "first line": lines(), "size": large(), "document": documents(), "binary tensor": binaries(),
        "image file": images(), "sound file": sounds(), "query": queries(),
    }  # fmt: skip
    found = [
        Malformed(fault=fault, name=name, content=content) for fault, made in faults.items() for name, content in made
    ]
    random = np.random.default_rng(1)
    while len(found) < COUNT:
        found.append(Malformed(fault="changed bytes", name=str(len(found)), content=changed(random)))
    return found[:COUNT]


def post(path: str, body: bytes, *more: str, kind: str = "application/json") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def heads() -> Iterator[tuple[str, bytes]]:
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
        yield str(lines)[:60], head + b"5\r\nhello\r\n0\r\n\r\n"
    body = json.dumps(GOOD).encode()
    yield "no host", f"POST {INFER} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    yield "two hosts", b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n\r\n"
    yield "another host", b"GET /v2 HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n"
    chunked = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for what, content in (
        ("bad", b"zz\r\n"), ("huge", b"ffffffffffffffff\r\n"), ("negative", b"-1\r\n"),
        ("with a sign", b"+5\r\nhello\r\n"),
        ("with underscores", b"0_5\r\nhello\r\n0\r\n\r\n"),
        ("with a long extension", b"5;" + b"a" * 100_000 + b"\r\nhello\r\n"),
        ("with no end of line", b"5\nhello\n0\n\n"), ("longer than said", b"3\r\nhello\r\n0\r\n\r\n"),
        ("with a length behind", b"5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n"),
        ("of one byte, many", b"1\r\nx\r\n" * 100_000),
        ("above the limit", b"%x\r\n" % (17 * MIB) + b" " * (17 * MIB) + b"\r\n"),
    ):  # fmt: skip
        yield f"chunks {what}", chunked + content


def lines() -> Iterator[tuple[str, bytes]]:
    for first in (
        "GET", "GET / HTTP/9.9", "GET / HTTP/1.1 x", "\x16\x03\x01\x02", "PRI * HTTP/2.0",
        f"GET /{'a' * 100_000} HTTP/1.1",
        "GET http://example.org/ HTTP/1.1", "TRACE / HTTP/1.1", "CONNECT localhost:1 HTTP/1.1", "GET /%00 HTTP/1.1",
        "GET /v2/models/..%2f..%2fetc HTTP/1.1", "GET /v2/models/%ff/ready HTTP/1.1", "get / HTTP/1.1",
        "GET /v2/models/shared/versions/%0a HTTP/1.1", f"GET /v1/predict?{'a=b&' * 10_000} HTTP/1.1",
        "GET /v2/models/" + "x" * 5000 + " HTTP/1.1", "OPTIONS * HTTP/1.1", "DELETE /v2/models/shared HTTP/1.1",
        "HEAD /v1/predict HTTP/1.1", "GET /v2/models/shared/../../../etc/passwd HTTP/1.1", "GET //etc/passwd HTTP/1.1",
        "GET /v2/models/%2e%2e/infer HTTP/1.1", "GET /v2/models/shared%0d%0aX:%20y HTTP/1.1", "GET /%C0%AE HTTP/1.1",
        "POST /v1/models/..%2fother/erase HTTP/1.1", "GET /v2/models/shared;x=1/ready HTTP/1.1", "GET * HTTP/1.1",
    ):  # fmt: skip
        yield first[:40], f"{first}\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()


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
        yield name, post(INFER, body)
        if len(body) < 2 * MIB:
            yield f"{name} to erase", post(ERASE, body)


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
            yield f"{size} {length}", post(INFER, text + behind, f"Inference-Header-Content-Length: {length}")


def images() -> Iterator[tuple[str, bytes]]:
    def png(width: int, height: int, data: bytes = b"") -> bytes:
        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        head = chunk(b"IHDR", struct.pack(">IIBBBBB", width & 0xFFFFFFFF, height & 0xFFFFFFFF, 8, 2, 0, 0, 0))
        return b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")

    text = zlib.compress(b"a" * (64 * MIB), 9)
    bomb = struct.pack(">I", len(text) + 3) + b"zTXta\0\0" + text
    bomb += struct.pack(">I", zlib.crc32(bomb[4:]))
    squeezed = zlib.compressobj(9, wbits=-15)
    deflated = squeezed.compress(b"\0" * (256 * MIB)) + squeezed.flush()
    tags = ((9 + 2 * (number >> 16), number & 0xFFFF) for number in range(200_000))
    elements = b"".join(struct.pack("<HH2sH", *tag, b"LO", 0) for tag in tags)
    item = b"\xfe\xff\0\xe0\xff\xff\xff\xff\x09\0\1\0LO\0\0\xfe\xff\x0d\xe0\0\0\0\0"
    items = b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item * 50_000 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    empty = struct.pack(">I", 0) + b"xxXx" + struct.pack(">I", zlib.crc32(b"xxXx"))
    first = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 8), (257, 8), (273, 8), (279, 64)))
    at = 8 + 2 + len(first) + 4
    links = b"".join(struct.pack("<HI", 0, at + 6 * (number + 1)) for number in range(200_000))
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 4) + first + struct.pack("<I", at) + links
    frames = b"GIF89a\x08\0\x08\0\x80\0\0\0\0\0\xff\xff\xff" + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0" * 1_000_000 + b";"
    runs = b"BM" + struct.pack("<IHHI", 54, 0, 0, 1078) + struct.pack("<IiiHHIIiiII", 40, 4000, 4000, 1, 8, 1, *[0] * 5)
    runs += b"\0" * 1024 + b"\0\0" * (6 * MIB)
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
        ("DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 64),
        ("a deflated DICOM bomb", dicom(deflated, "1.2.840.10008.1.2.1.99")),
        ("DICOM of 200,000 elements", dicom(elements, "1.2.840.10008.1.2.1\0")),
        ("DICOM of 50,000 sequences", dicom(items, "1.2.840.10008.1.2.1\0")), ("a flat PNG", flat(4900, 5000, 2)),
        ("a flat PNG of 16 bits", flat(4900, 5000, 2, 16)), ("a flat PNG in grey", flat(4900, 5000, 0, 16)),
        ("a flat PNG with transparency", flat(4900, 5000, 6)),
        ("PNG of a million chunks", png(8, 8, empty * 1_000_000)),
        ("TIFF of 200,000 frames", tiff), ("GIF of a million frames", frames), ("JPEG of 50,000 scans", scans()),
        ("QOI", b"qoif" + struct.pack(">IIBB", 4900, 5000, 3, 0) + b"\xfd" * 400_000),
        ("PPM as text", b"P3 2000 2000 255\n" + b"1 " * (6 * MIB)),
        ("BMP of empty runs", runs), ("zeros", b"\0" * (15 * MIB)),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ):  # fmt: skip
        yield name, post(PREDICT, content, kind="application/octet-stream")


def scans() -> bytes:
    """A progressive JPEG that goes over its 4,000 x 4,000 pixels again and again."""
    found = io.BytesIO()
    Image.new("L", (4000, 4000)).save(found, "JPEG", progressive=True)
    content = found.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 50_000  # the last scan of one colour has some thirty bytes


def dicom(content: bytes, syntax: str) -> bytes:
    """A DICOM file of that transfer syntax."""
    meta = b"\x02\0\x10\0UI" + struct.pack("<H", len(syntax)) + syntax.encode()
    return b"\0" * 128 + b"DICM\x02\0\0\0UL\x04\0" + struct.pack("<I", len(meta)) + meta + content


def flat(width: int, height: int, colour: int, bits: int = 8) -> bytes:
    """A PNG of one colour, whose pixels are a thousand times its bytes."""
    row = 1 + width * bits // 8 * {0: 1, 2: 3, 6: 4}[colour]
    content = zlib.compress(b"\0" * row * height, 9)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", content), (b"IEND", b""))
    chunks = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def sounds() -> Iterator[tuple[str, bytes]]:
    for name, content in (
        ("a WAV of 2^32 bytes", wav(b"\0" * 99, size=0xFFFFFFFE)), ("no rate", wav(b"\0" * 4000, rate=0)),
        ("a rate of 2^32", wav(b"\0" * 4000, rate=0xFFFFFFFF)), ("no channels", wav(b"\0" * 4000, channels=0)),
        ("65,535 channels", wav(b"\0" * 400_000, channels=65535)), ("no bits", wav(b"\0" * 4000, bits=0)),
        ("65,535 bits", wav(b"\0" * 4000, bits=65535)), ("a rate of 1,249", wav(b"\1" * 400_000, rate=1249)),
        ("a rate of 1,237", wav(b"\1" * 400_000, rate=1237)), ("a rate of 1", wav(b"\1" * 4000, rate=1)),
        ("a rate of 999,983", wav(b"\1" * 400_000, rate=999_983)), ("an hour", wav(b"\1" * (15 * MIB), rate=2000)),
        ("NaN", wav(np.full(9000, np.nan, "<f4").tobytes(), bits=32, code=3)), ("no samples", wav(b"")),
        ("a chunk of 2^32", b"RIFF\x24\0\0\0WAVELIST\xff\xff\xff\xff" + b"\0" * 99),
        ("100,000 chunks", b"RIFF\xff\xff\xff\0WAVE" + b"LIST\0\0\0\0" * 100_000),
        ("an MP3's head", b"\xff\xfb\x90\0" * 1000),
        ("a FLAC's head", b"fLaC" + b"\0\0\0\x22" + b"\xff" * 34), ("an OGG's head", b"OggS\0\2" + b"\xff" * 300),
        ("zeros", b"\0" * (15 * MIB)), ("an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 99),
        ("an AIFF of nothing", b"FORM\xff\xff\xff\xffAIFFCOMM\0\0\0\x12" + b"\xff" * 18),
    ):  # fmt: skip
        yield name, post(PREDICT.replace("shared", "sounds"), content, kind="application/octet-stream")


def wav(
    samples: bytes, *, rate: int = 16000, channels: int = 1, bits: int = 16, code: int = 1, size: int | None = None
) -> bytes:
    """A file whose header says what it is told to say."""
    align = channels * bits // 8
    head = struct.pack("<HHIIHH", code, channels, rate, rate * align & 0xFFFFFFFF, align & 0xFFFF, bits)
    said = len(samples) if size is None else size
    return (
        b"RIFF" + struct.pack("<I", min(0xFFFFFFFF, 36 + said)) + b"WAVEfmt " + struct.pack("<I", len(head)) + head
        + b"data" + struct.pack("<I", said) + samples
    )  # fmt: skip


def queries() -> Iterator[tuple[str, bytes]]:
    for query in (
        "active=", "active=nobody", "without=" + "&without=".join(["class1"] * 500), "model=..%2f..", "profile=%00",
        "active=class1%0aX:%20y", "active=%ff%fe", "model=shared%00", "profile=..%2f..%2fetc", "colour=red&active=none",
        "active=" + "a" * 60_000, "&".join(f"active=x{number}" for number in range(5000)),
    ):  # fmt: skip
        yield query[:40], post(f"{PREDICT}&{query}", b"x", kind="application/octet-stream")
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a"\r\n\r\nhello\r\n--x--'
    for kind in (
        "multipart/form-data; boundary=x",
        "multipart/form-data",
        "multipart/form-data; boundary=" + "x" * 9000,
    ):
        yield kind[:40], post(PREDICT, form, kind=kind)


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
