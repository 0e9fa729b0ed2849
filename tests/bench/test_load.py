"""`pfm bench load` against a server: what it counts, and that it sees what is wrong."""

import asyncio
import json
import shutil
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from making.served import export_form, listening
from pfm.cli import pfm, run
from pfm.errors import ConfigError
from pfm_bench.scenarios.load import Load, Phase
from pfm_bench.scenarios.load_checks import Answer, Asked, Change, Judge, Question, Tolerance, Verdicts, read_answer
from pfm_bench.scenarios.load_client import Connections, Reply, run_precisely
from pfm_bench.scenarios.load_plan import LoadPlan

CLASSES = ("a", "b", "c")
SHARES = {"a": 0.5, "b": 0.25, "c": 0.25}


@pytest.mark.slow
def test_a_server_under_load_while_classes_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = export_form("requests", tmp_path / "exported")
    folder = Path(shutil.copytree(copy, tmp_path / "model"))
    with listening(folder) as (_, address):
        code = run(
            pfm,
            [
                "bench", "load", "--address", f"http://{address}", "--model", "model", "--sets", "3", "--clients", "4",
                "--loads", "0.5,0.8", "--seconds", "0.5", "--erase", "blue", "--suspensions", "2",
                "--bundle", str(copy), "--out", str(tmp_path / "out"),
            ],
        )  # fmt: skip
        assert code == 0, capsys.readouterr().err
    document = json.loads((tmp_path / "out" / "load.json").read_text())
    alone, clients, *trials, less, more = [phase["name"] for phase in document["phases"]]
    assert [alone, clients, less, more] == ["alone", "4 clients", "load 50%", "load 80%"]
    assert trials == [f"trial {number + 1}" for number in range(len(trials))]
    assert len(trials) >= 5  # more where the machine is slow
    for phase in document["phases"]:
        assert phase["wrong"] == phase["numbers_not_known"] == 0, phase["wrong_examples"]
        assert phase["worst_difference"] <= 1e-5
        assert phase["statuses"].get("400", 0) == phase["rightly_refused"]
        assert set(phase["statuses"]) <= {"200", "400", "429"}  # a rate that is too high is refused in part
        assert phase["p50_ms"] <= phase["p99_ms"]
    assert document["phases"][0]["worst_difference"] == 0  # alone: bit for bit
    assert "blue" in (folder / "ledger.jsonl").read_text()


# --- what is right ----------------------------------------------------------------------------------


def question(active: Sequence[str] | None = None, without: Sequence[str] = (), tenant: int = 0) -> Question:
    return Question(
        request=b"", tenant=tenant, inputs=np.zeros((1, 2), np.float32), classes=CLASSES,
        active=None if active is None else tuple(active), without=tuple(without),
    )  # fmt: skip


def expected(_: Question, classes: Sequence[str]) -> Answer:
    return Answer(classes[0], {name: SHARES[name] for name in classes})


def reply(classes: Sequence[str], label: str = "", off: float = 0.0) -> Reply:
    """As the server writes it."""
    texts = [
        b"".join(struct.pack("<I", len(name)) + name.encode() for name in names)
        for names in ([label or classes[0]], classes)
    ]
    shares = np.array([SHARES[name] + off for name in classes], "<f4").tobytes()
    parts = {"labels": texts[0], "classes": texts[1], "probabilities": shares}
    outputs = [
        {"name": name, "parameters": {"binary_data_size": len(part)}} for name, part in parts.items()
    ]  # fmt: skip
    text = json.dumps({"outputs": outputs}).encode()
    return Reply(200, text + b"".join(parts.values()), len(text))


def verdict(asked: Question, got: Reply, sent: float, ended: float, *changes: Change) -> str:
    found = Judge(changes, expected).of([Asked(asked, got, sent, sent, ended)])
    (name,) = [name for name in ("right", "wrong", "refused") if getattr(found, name)] or ["nothing"]
    return name


def test_answers_have_the_numbers_of_the_session_for_their_classes() -> None:
    assert verdict(question(), reply(CLASSES), 0, 1) == "right"
    assert verdict(question(), reply(CLASSES, off=1e-6), 0, 1) == "right"
    assert verdict(question(), reply(CLASSES, off=1e-4), 0, 1) == "wrong"
    assert verdict(question(), reply(CLASSES, label="b"), 0, 1) == "wrong"
    assert verdict(question(["a", "c"]), reply("ac"), 0, 1) == "right"
    assert verdict(question(["a", "c"]), reply("abc"), 0, 1) == "wrong"
    assert verdict(question(without=["b"]), reply("ac"), 0, 1) == "right"
    assert verdict(question(without=["b"]), reply("abc"), 0, 1) == "wrong"
    assert verdict(question(), reply("ac"), 0, 1) == "wrong"  # nobody took b away
    found = Judge([], lambda *_: None).of([Asked(question(), reply(CLASSES), 0, 0, 1)])
    assert (found.right, found.unjudged) == (1, 1)


def test_on_a_gpu_another_label_is_right_where_its_probability_is_nearly_the_highest() -> None:
    asked = [Asked(question(), reply(CLASSES, label="b", off=1e-4), 0, 0, 1)]
    gap = SHARES["a"] - SHARES["b"]
    near, far = (Tolerance(probability=1e-3, tie=tie) for tie in (1.01 * gap, 0.99 * gap))
    assert Judge([], expected, near).of(asked).right == 1
    assert Judge([], expected, far).of(asked).wrong == 1


@pytest.mark.parametrize(
    ("sent", "ended", "with_it", "without_it"),
    [(0, 1, "right", "wrong"), (0, 5.5, "right", "right"), (5.2, 5.5, "right", "right"), (7, 8, "wrong", "right")],
)
def test_what_was_erased_before_a_request_was_sent_is_not_in_its_answer(
    sent: float, ended: float, with_it: str, without_it: str
) -> None:
    gone = Change(name="b", tenant=None, is_there=False, asked=5, answered=6)
    assert verdict(question(), reply("abc"), sent, ended, gone) == with_it
    assert verdict(question(), reply("ac"), sent, ended, gone) == without_it
    refused = "nothing" if without_it == "wrong" else "refused"
    assert verdict(question(["a", "b"]), Reply(400), sent, ended, gone) == refused
    assert verdict(question(without=["b"]), Reply(400), sent, ended, gone) == refused
    assert verdict(question(["a", "b"]), reply("ab"), sent, ended, gone) == with_it
    assert verdict(question(["a", "c"]), Reply(400), sent, ended, gone) == "nothing"


def test_a_suspension_holds_for_its_tenant_until_it_is_restored() -> None:
    gone = Change(name="b", tenant=1, is_there=False, asked=5, answered=6)
    back = Change(name="b", tenant=1, is_there=True, asked=10, answered=11)
    for tenant, sent, ended, classes, found in (
        (1, 7, 8, "ac", "right"), (1, 7, 8, "abc", "wrong"), (0, 7, 8, "abc", "right"), (0, 7, 8, "ac", "wrong"),
        (1, 7, 10.5, "abc", "right"), (1, 12, 13, "abc", "right"), (1, 12, 13, "ac", "wrong"),
    ):  # fmt: skip
        assert verdict(question(tenant=tenant), reply(classes), sent, ended, gone, back) == found


def test_a_request_of_which_no_class_is_left_may_be_refused() -> None:
    gone = Change(name="a", tenant=None, is_there=False, asked=1, answered=2)
    assert verdict(question(without=["b", "c"]), Reply(400), 3, 4, gone) == "refused"
    assert verdict(question(without=["b", "c"]), Reply(400), 0, 0.5, gone) == "nothing"


def test_an_answer_is_read_as_the_server_writes_it() -> None:
    assert read_answer(reply("ac", label="unknown")) == Answer("unknown", {"a": 0.5, "c": 0.25})


# --- the client -------------------------------------------------------------------------------------


def with_server(answer: Callable[[bytes], bytes], talk: Callable[[Connections], object]) -> None:
    """Have a client talk with a server that answers so; b"" ends the connection."""

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while head := await reader.readline():
                while await reader.readline() not in (b"\r\n", b""):
                    pass
                for part in filter(None, answer(head).partition(b"|")[::2]):  # a part at a time
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0.001)
                if not answer(head):
                    break
            writer.close()
            await writer.wait_closed()
            ended.release()

        ended = asyncio.Semaphore(0)
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            connections = Connections(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            await talk(connections)  # type: ignore[misc]  # a coroutine
            await connections.close()
            for _ in range(3):  # connections, of which the server closes its ends too
                await ended.acquire()

    run_precisely(main())


def test_the_client_reads_answers_that_come_in_parts_and_says_where_a_connection_broke() -> None:
    def answer(head: bytes) -> bytes:  # three requests at a time, so three connections
        if b"/broken" in head:
            return b""
        return b"HTTP/1.1 200 OK\r\nInference-Header-Content-Length: 2\r\ncontent-length: 5\r\n|\r\nhello"

    async def talk(connections: Connections) -> None:
        asked = [connections.request("GET", path) for path in ("/", "/broken", "/")]
        replies = await asyncio.gather(*(connections.ask(each) for each in asked))
        assert [each.status for each in replies] == [200, 0, 200]
        assert (replies[0].body, replies[0].json_length) == (b"hello", 2)
        again = await connections.ask(asked[0])  # on a connection that was kept
        assert again.port in (replies[0].port, replies[2].port)

    with_server(answer, talk)


def test_an_address_is_that_of_a_server() -> None:
    for address in ("localhost:8000", "https://localhost", "http://"):
        with pytest.raises(ConfigError, match="--address"):
            Connections(address)


def test_a_server_that_is_not_there_or_has_no_such_model_is_said_in_one_line() -> None:
    async def nobody() -> None:
        await Load(LoadPlan(address="http://127.0.0.1:9"), "model", [], print).prepare()

    with pytest.raises(ConfigError, match=r"does not serve model \(no answer\)"):
        run_precisely(nobody())


# --- what is said -----------------------------------------------------------------------------------


def test_a_phase_says_how_many_were_answered_and_what_became_of_the_others() -> None:
    phase = Phase(name="load 80%", asked_per_second=100.0, seconds=2.0, latencies_ms=[1.0, 2.0, 3.0])
    phase.statuses.update({200: 3, 429: 2, 0: 1, 400: 4})
    phase.verdicts = Verdicts(right=3, refused=4)
    assert "1.5 of 100.0 requests/s  p50 2.0 ms" in phase.describe()
    assert phase.describe().endswith("wrong 0  2 x 429, 1 x broken, 4 rightly refused")
    assert phase.to_dict()["statuses"] == {"0": 1, "200": 3, "400": 4, "429": 2}


def test_a_rate_is_carried_where_all_is_answered_soon_after_it_came() -> None:
    def phase(seconds: float, **statuses: int) -> Phase:
        found = Phase(name="x", seconds=seconds, arriving_seconds=10.0, verdicts=Verdicts(refused=1))
        found.statuses.update({int(name[1:]): count for name, count in statuses.items()})
        return found

    assert phase(10.09, s200=99, s400=1).is_carried(2.0)
    assert not phase(10.2, s200=99, s400=1).is_carried(2.0)
    assert phase(10.5, s200=99, s400=1).is_carried(200.0)  # the last one waited for a pass or two
    assert not phase(10.7, s200=99, s400=1).is_carried(200.0)
    assert not phase(10.0, s200=98, s400=1, s429=1).is_carried(2.0)


@pytest.mark.parametrize(("carries", "tried"), [(60.0, 5), (20.0, 8), (0.0, 10)], ids=["some", "less", "nothing"])
def test_the_capacity_is_a_rate_that_was_carried(carries: float, tried: int) -> None:
    load = Load(LoadPlan(address="http://127.0.0.1:1"), "m", [], lambda _: None)
    rates: list[float] = []

    async def trial(share: float, capacity: float, seconds: float, *, name: str) -> Phase:
        rates.append(share * capacity)
        found = Phase(name=name, seconds=seconds, arriving_seconds=seconds)
        found.statuses.update({200: 1} if rates[-1] <= carries else {429: 1})
        return found

    load.open = trial  # type: ignore[method-assign]
    if carries:
        capacity, trials = asyncio.run(load.find_capacity(100.0, 1.0, 1.0))
        assert capacity == max(rate for rate in rates if rate <= carries)
        assert len(trials) == tried
    else:
        with pytest.raises(ConfigError, match="is carried"):
            asyncio.run(load.find_capacity(100.0, 1.0, 1.0))
    assert len(rates) == tried


def test_shares_of_the_capacity_are_numbers() -> None:
    assert LoadPlan(loads="0.5, 1.2").shares == (0.5, 1.2)
    with pytest.raises(Exception, match="--loads"):
        LoadPlan(loads="half")
