"""Who may hold how much of the room for bodies: nobody takes it from all others by bodies that do not end."""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from making.served import Local, opened
from making.wires import Wire, connected
from pfm_export.service.connection import Connection
from pfm_export.service.guard import BODIES_AT_ONCE
from pfm_export.service.lane import Lane
from pfm_export.service.room import Held, Room

GREEDY, OTHER = "greedy-" + "a" * 32, "other-" + "b" * 32
MIB = 1 << 20


def test_bodies_that_do_not_end_take_half_of_what_is_left() -> None:
    room, sizes = Room(1000), list[int]()
    for whose in ("a", "b", "c"):
        body = Held(whose=whose)
        while room.has_room(1, coming_of=whose):
            assert room.add(body, 1, is_whole=False)
        sizes.append(body.size)
    assert sizes == [500, 250, 125]
    assert room.has_room(125)  # what comes whole is gone soon, and may have the rest
    assert not room.has_room(126)


def test_a_body_that_is_whole_counts_for_nobody() -> None:
    room, first, second = Room(1000), Held(whose="a"), Held(whose="a")
    assert room.add(first, 499, is_whole=False)
    assert not room.has_room(2, coming_of="a")
    assert room.add(first, 1, is_whole=True)
    assert room.has_room(250, coming_of="a")
    assert not room.has_room(251, coming_of="a")
    assert room.add(second, 500, is_whole=True)
    assert not room.add(second, 1, is_whole=True)
    room.let_go(second)
    assert room.held == 500


def test_whatever_comes_and_goes_nothing_is_left_of_it() -> None:
    draw, room = random.Random(0), Room(10_000)
    there: list[Held] = []
    for _ in range(3000):
        if draw.random() < 0.4 or not there:
            there.append(Held(whose=draw.choice("abc")))
        body = draw.choice(there)
        if not room.add(body, draw.randrange(500), is_whole=draw.random() < 0.2) or draw.random() < 0.2:
            room.let_go(body)
            there.remove(body)
        assert room.held == sum(body.size for body in there) <= 10_000
        coming = Counter[str]()
        for body in there:
            coming[body.whose] += body.coming
        assert room._coming == +coming
    for body in there:
        room.let_go(body)
    assert (room.held, room._coming) == (0, {})


def head(path: str, length: int, token: str, *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", f"Authorization: Bearer {token}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def an_image() -> tuple[bytes, bytes]:
    """The head of a request, and its body."""
    numbers = np.zeros((1, 3, 8, 8), np.float32).tobytes()
    entry = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "parameters": {"binary_data_size": 768}}
    text = json.dumps({"inputs": [entry]}).encode()
    length = f"Inference-Header-Content-Length: {len(text)}"
    return head("/v2/models/shared/infer", len(text) + 768, OTHER, length), text + numbers


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(300):
        while not is_so():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("path", "more"), [("/v2/models/shared/infer", ["Inference-Header-Content-Length: 9"]), ("/v1/predict", [])]
)
def test_one_token_cannot_keep_others_out_by_bodies_that_come_slowly(
    path: str, more: list[str], forms: Callable[[str], Path], tmp_path: Path
) -> None:
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": "default", "rights": ["predict"]}
        for token in (GREEDY, OTHER)
    ]
    (tmp_path / "tokens.json").write_text(json.dumps({"tokens": entries}))
    begun, body = an_image()

    async def attack(local: Local) -> tuple[list[bytes], bytes]:
        local.app.lane = Lane(local.service, local.app)
        async with AsyncExitStack() as stack:

            async def opens() -> tuple[Connection, Wire]:
                return await stack.enter_async_context(connected(local.app))

            slow = [await opens() for _ in range(2 * BODIES_AT_ONCE)]
            for connection, _ in slow:  # each but one byte of a body of the largest size
                connection.data_received(head(path, MIB, GREEDY, *more))
                for _ in range(8):
                    connection.data_received(bytes(MIB // 8 - 1))
                    await asyncio.sleep(0)
            wires = [wire for _, wire in slow]
            await until(lambda: sum(wire.is_closed for wire in wires) >= BODIES_AT_ONCE)
            connection, wire = await opens()
            for piece in (begun, body[:100], body[100:]):  # it comes in pieces as well
                connection.data_received(piece)
                await asyncio.sleep(0.01)
            await until(lambda: bool(wire.writes))
            return [b"".join(each.writes) for each in wires if each.is_closed], b"".join(wire.writes)

    with opened(forms("shared"), tokens=tmp_path / "tokens.json", max_mib=1, timeout=600.0) as local:
        refused, other = asyncio.run(attack(local))
        assert local.app.room.held == 0
    assert other.startswith(b"HTTP/1.1 200 ")
    assert all(said.startswith(b"HTTP/1.1 429 ") for said in refused)
    assert len(refused) >= 2 * BODIES_AT_ONCE - BODIES_AT_ONCE // 2  # one client has half of the room
