"""Requests that are read without h11: it reads the same, and what it would refuse is never taken."""

import asyncio
import itertools
import random

import h11
import pytest
from starlette.types import Message, Receive, Scope, Send

from making.wires import Wire, talk
from pfm_export.service.connection import Connection
from pfm_export.service.packets import Joined
from pfm_export.service.plain import MOST_AHEAD, Headers, read_plain

HEAD = b"POST /v2/models/m/infer?a=%20b HTTP/1.1\r\nHost: localhost:8000\r\n"
GOOD = HEAD + b"Content-Length: 4\r\n\r\nbody"
LINES = (
    b"Content-Length: 4", b"content-length:4", b"Content-Length: 4 ", b"Content-Length: +4", b"Content-Length: 4, 4",
    b"Content-Length: 5", b"Content-Length : 4", b" Content-Length: 4", b"Transfer-Encoding: chunked", b"TE: trailers",
    b"Expect: 100-continue", b"Connection: close", b"Connection: keep-alive", b"Connection: Keep-Alive, Upgrade",
    b"Upgrade: h2c", b"Host: other", b"Accept: */*", b"X-Empty:", b"X: a\tb", b"X: \x00", b"X: \x7f", b"X: \xc3\xa9",
    b"X Y: z", b"X:y\nZ: a", b": empty", b"Content-Encoding: gzip", b"Authorization: Bearer abc",
    b"Inference-Header-Content-Length: 2",
)  # fmt: skip


def by_h11(data: bytes) -> tuple[bytes, Headers, bytes, bool] | None:
    """Target, headers, body, and whether the connection goes on; None where it is refused or not whole."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        request = connection.next_event()
        if not isinstance(request, h11.Request) or connection.they_are_waiting_for_100_continue:
            return None
        body = b""
        while isinstance(event := connection.next_event(), h11.Data):
            body += bytes(event.data)
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.EndOfMessage) or connection.trailing_data[0]:
        return None
    headers = [(name.lower(), value) for name, value in request.headers]
    return request.target, headers, body, connection.their_state is h11.DONE


def requests() -> list[bytes]:
    """Every pair of lines, and good requests with some bytes changed, gone, or twice; always the same ones."""
    pairs = [HEAD + b"\r\n".join([*lines, b"", b"body"]) for lines in itertools.permutations(LINES, 2)]
    draw = random.Random(0)
    found = [GOOD, GOOD + b"x", GOOD[:-1], GOOD.replace(b"1.1", b"1.0"), GOOD.replace(b"POST", b"GET"), *pairs]
    for _ in range(3000):
        changed = bytearray(draw.choice(pairs))
        for _ in range(draw.randint(1, 3)):
            place = draw.randrange(len(changed))
            changed[place : place + draw.randint(0, 2)] = draw.choice(
                (b"", b" ", b":", b"\r\n", b"\n", b"\x0b", b"4", b",")
            )
        found.append(bytes(changed))
    return found


def test_whatever_is_taken_is_what_h11_reads_and_what_h11_refuses_is_not_taken() -> None:
    taken = 0
    for data in requests():
        plain = read_plain(data)
        if plain is not None:
            taken += 1
            rest = b"x" * plain.missing
            assert by_h11(data + rest) == (plain.target, plain.headers, plain.body + rest, True), data
    assert taken > 50


def test_what_is_missing_of_a_body_is_counted_and_what_is_behind_it_is_left_to_h11() -> None:
    whole = read_plain(GOOD)
    for cut in range(GOOD.index(b"body"), len(GOOD)):
        plain = read_plain(GOOD[:cut])
        assert plain is not None
        assert whole is not None
        assert (plain.target, plain.headers, plain.missing) == (whole.target, whole.headers, len(GOOD) - cut)
        assert GOOD[:cut].endswith(plain.body)
    assert read_plain(GOOD + b"x") is None


def test_what_changes_how_a_message_is_read_is_left_to_h11() -> None:
    assert read_plain(GOOD) is not None
    for line in (b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Connection: close", b"Host: twice"):
        assert read_plain(GOOD.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n")) is None
    assert read_plain(HEAD + b"X: " + b"a" * (1 << 15) + b"\r\nContent-Length: 0\r\n\r\n") is None
    assert read_plain(HEAD + b"X: y\r\n" * 100 + b"Content-Length: 0\r\n\r\n") is None


# --- on a connection --------------------------------------------------------------------------------


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the body, after a while."""
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await asyncio.sleep(0)
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


async def a_while() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def asking(body: bytes) -> bytes:
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def test_requests_of_both_ways_on_one_connection_are_answered_in_order_each_by_one_packet() -> None:
    async def what(connection: Connection, wire: Wire) -> None:
        chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
        for data in (asking(b"one"), chunked, asking(b"three")):
            connection.data_received(data)
            await a_while()
        connection.data_received(asking(b"four"))
        connection.data_received(asking(b"five")[:20])  # before the answer, and not whole
        connection.data_received(asking(b"five")[20:])
        await a_while()

    wire = talk(echo, what)
    assert [packet.rpartition(b"\r\n\r\n")[2] for packet in wire.writes] == [b"one", b"two", b"three", b"four", b"five"]
    assert all(packet.startswith(b"HTTP/1.1 200 OK\r\n") for packet in wire.writes)


def test_a_server_that_stops_says_so_with_the_answer_and_ends_the_connection() -> None:
    async def what(connection: Connection, wire: Wire) -> None:
        connection.data_received(asking(b"last"))
        connection.shutdown()
        assert not wire.is_closed  # it answers first
        await a_while()

    wire = talk(echo, what)
    assert wire.is_closed
    assert b"connection: close" in wire.writes[0]


def test_an_application_learns_that_its_client_is_gone_and_an_answer_to_nobody_is_not_sent() -> None:
    seen: list[Message] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([await receive(), await receive()])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})

    async def what(connection: Connection, wire: Wire) -> None:
        connection.data_received(asking(b"x"))
        await a_while()
        connection.connection_lost(None)
        await a_while()

    wire = talk(waits, what)
    assert [message["type"] for message in seen] == ["http.request", "http.disconnect"]
    assert wire.writes == []


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"3")], [(b"content-length", b"0"), (b"x", b"a\r\nb: c")]]
)
def test_an_answer_that_is_not_well_formed_is_a_bug_and_ends_the_connection(headers: Headers) -> None:
    raised: list[BaseException] = []

    async def bad(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"12345"})
        except RuntimeError as error:
            raised.append(error)

    async def what(connection: Connection, wire: Wire) -> None:
        connection.data_received(asking(b"x"))
        await a_while()

    wire = talk(bad, what)
    assert len(raised) == 1
    assert wire.is_closed
    assert wire.writes == []


def test_a_body_is_handed_out_as_it_comes_and_reading_stops_where_nobody_asks_for_it() -> None:
    seen: list[Message] = []
    asked = asyncio.Event()

    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        while not seen or seen[-1]["more_body"]:
            seen.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def what(connection: Connection, wire: Wire) -> None:
        half = b"a" * (MOST_AHEAD // 2 + 1)
        request = asking(3 * half)
        head = len(request) - 3 * len(half)
        connection.data_received(request[:head])
        connection.data_received(half)
        assert not wire.is_reading_paused
        connection.data_received(half)
        assert wire.is_reading_paused
        asked.set()
        await a_while()
        assert not wire.is_reading_paused
        connection.data_received(half + asking(b""))  # the next one waits for the answer
        assert wire.is_reading_paused
        asked.clear()
        await a_while()
        assert not wire.is_reading_paused
        assert b"".join(message["body"] for message in seen) == 3 * half
        assert [message["more_body"] for message in seen] == [True, False]
        asked.set()
        await a_while()

    assert len(talk(reads, what).writes) == 2


def test_behind_a_body_that_was_not_read_nothing_is_taken_for_a_request() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 403, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def what(connection: Connection, wire: Wire) -> None:
        connection.data_received(asking(b"x" * 1000)[:-900])
        await a_while()
        assert wire.is_closed
        connection.data_received(asking(b"hidden"))
        await a_while()

    wire = talk(refuses, what)
    assert len(wire.writes) == 1
    assert b"connection: close" in wire.writes[0]


def test_what_is_written_in_one_go_is_sent_at_once_and_before_the_end() -> None:
    async def run() -> Wire:
        wire = Wire()
        transport = Joined(wire)
        transport.write(b"a")
        transport.write(b"b")
        assert wire.writes == []
        await asyncio.sleep(0)
        transport.write(b"c")
        transport.close()
        return wire

    wire = asyncio.run(run())
    assert wire.writes == [b"ab", b"c"]
    assert wire.is_closed
