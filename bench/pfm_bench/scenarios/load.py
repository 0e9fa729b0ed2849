"""A running server under load: one request after another, as many as it can take, and arrivals at random.

In the open loop requests arrive as a Poisson process whether or not earlier ones were answered, and a latency counts
from the moment of arrival, so that a server that falls behind is seen to. Every answer is compared with the one that
the same request got when it was alone.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from pfm.errors import ConfigError
from pfm.storage import Json
from pfm_bench.measuring.stats import percentiles
from pfm_bench.scenarios.load_plan import LoadPlan

OPEN_SIZE = 224  # of an axis that the model leaves open
MOST_SAMPLES = 5000  # latencies of a phase that are kept
TYPES = {"FP32": np.float32, "UINT8": np.uint8}
ALONE = 30  # requests one after another, at least, for what a request costs alone
TOLERANCE = 1e-5  # of a probability in company


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        shares: probability by class.
    """

    status: int
    label: str = ""
    shares: dict[str, float] = field(default_factory=dict)


@dataclass
class Phase:
    """Requests of one kind of load.

    Attributes:
        asked_per_second: of the open loop; None where the next one waits for the last.
        seconds: that it took.
        latencies_ms: of those that were answered.
        statuses: how many of each; 0 for a connection that broke.
        wrong: answers that were others than alone, or had a class that was erased before they were asked for.
        refused: requests for a class by name that is erased, or is just being erased; not among the statuses.
    """

    name: str
    asked_per_second: float | None = None
    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    refused: int = 0

    @property
    def per_second(self) -> float:
        """Requests that were answered."""
        return self.statuses[200] / self.seconds

    def to_dict(self) -> Json:
        step = max(1, -(-len(self.latencies_ms) // MOST_SAMPLES))
        return {
            "name": self.name,
            "asked_per_second": self.asked_per_second,
            "answered_per_second": self.per_second,
            "seconds": self.seconds,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items()) if count},
            "wrong": self.wrong,
            "refused": self.refused,
            **(percentiles(self.latencies_ms).to_dict() if self.latencies_ms else {}),
            "latencies_ms": [round(value, 3) for value in self.latencies_ms[::step]],
        }

    def describe(self) -> str:
        """One line."""
        rate = "" if self.asked_per_second is None else f" of {self.asked_per_second:.1f}"
        found = percentiles(self.latencies_ms) if self.latencies_ms else None
        times = "" if found is None else f"  p50 {found.p50_ms:.1f} ms  p99 {found.p99_ms:.1f} ms"
        others = ", ".join(
            f"{count} x {status or 'broken'}" for status, count in self.statuses.items() if status != 200
        )
        return f"{self.name:<14} {self.per_second:8.1f}{rate} requests/s{times}  wrong {self.wrong}  {others}".rstrip()


class _Connections:
    """Connections that are kept open, as many as there are requests at a time."""

    def __init__(self, address: str) -> None:
        place = urlsplit(address)
        if place.scheme != "http" or place.hostname is None:
            raise ConfigError(f"--address {address!r} is not like http://localhost:8000")
        self._host, self._port = place.hostname, place.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes) -> tuple[int, bytes, int | None]:
        """Status, body, and how much of it is JSON; status 0 where the connection broke."""
        try:
            pair = self._idle.pop() if self._idle else await asyncio.open_connection(self._host, self._port)
            reader, writer = pair
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if ": " in line)
            body = await reader.readexactly(int(fields.get("content-length", "0")))
        except (OSError, asyncio.IncompleteReadError):
            return 0, b"", None
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._idle.append(pair)
        length = fields.get("inference-header-content-length")
        return int(head.split()[1]), body, None if length is None else int(length)

    async def close(self) -> None:
        """End them."""
        for _, writer in self._idle:
            writer.close()
            await writer.wait_closed()

    def request(self, method: str, path: str, body: bytes = b"", *, token: str = "", more: Sequence[str] = ()) -> bytes:
        """The bytes of a request."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._host}:{self._port}", f"Content-Length: {len(body)}", *more]
        lines += [f"Authorization: Bearer {token}"] if token else []
        return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass(frozen=True)
class _Question:
    """A request that is asked again and again, the classes that it names, and its answer when it was alone."""

    request: bytes
    names: frozenset[str]
    alone: Answer


class Load:
    """Phases against one server.

    Args:
        model: by name.
        tokens: of tenants; none where the server asks for none.
    """

    def __init__(self, plan: LoadPlan, model: str, tokens: Sequence[str], say: Callable[[str], object]) -> None:
        self._plan = plan
        self._model = model
        self._tokens = tokens or ("",)
        self._say = say
        self._random = np.random.default_rng(plan.seed)
        self._connections = _Connections(plan.address)
        self._questions: list[_Question] = []
        self._going: set[str] = set()  # classes whose erasure was asked for
        self._gone: list[tuple[float, str]] = []  # when an erasure was answered, and the class

    async def run(self) -> list[Phase]:
        """All phases, each said when it is over.

        Raises:
            ConfigError: the server cannot be asked.
        """
        plan = self._plan
        try:
            alone = Phase("alone")
            await self._prepare(alone)
            closed = await self._closed()
            phases = [alone, closed]
            for place, share in enumerate(plan.shares):
                is_last = place == len(plan.shares) - 1
                phases.append(await self._open(share, closed.per_second, plan.erased if is_last else ()))
            return phases
        finally:
            await self._connections.close()

    async def _prepare(self, phase: Phase) -> None:
        """Make the questions, and ask each alone."""
        for token in self._tokens:
            status, body, _ = await self._connections.ask(
                self._connections.request("GET", f"/v2/models/{self._model}", token=token)
            )
            if status != 200:
                raise ConfigError(f"{self._plan.address} does not serve {self._model} ({status or 'no answer'})")
            about = json.loads(body)
            for number in range(self._plan.sets):
                names = self._active(about["classes"]) if number else []
                request = self._infer(about, token, names)
                self._questions.append(_Question(request, frozenset(names), await self._ask(phase, request)))
        begun = time.perf_counter()
        phase.latencies_ms.clear()  # the first ones warm the server up
        phase.statuses.clear()
        for number in range(max(ALONE, len(self._questions))):
            await self._check(phase, self._questions[number % len(self._questions)], time.perf_counter())
        phase.seconds = time.perf_counter() - begun
        self._say(phase.describe())

    def _active(self, classes: list[str]) -> list[str]:
        """Some of them."""
        count = int(self._random.integers(1, len(classes) + 1))
        return [classes[place] for place in sorted(self._random.permutation(len(classes))[:count])]

    def _infer(self, about: dict, token: str, names: Sequence[str]) -> bytes:
        """A request with these classes; none are named for all of them, so that an erasure is followed."""
        (entry,) = about["inputs"]
        shape = [1, *(OPEN_SIZE if size < 0 else size for size in entry["shape"][1:])]
        dtype = TYPES[entry["datatype"]]
        drawn = self._random.integers(0, 256, shape) if dtype is np.uint8 else self._random.standard_normal(shape)
        raw = drawn.astype(dtype).tobytes()
        tensor = {**entry, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        parameters = {"binary_data_output": True, **({"active": names} if names else {})}
        text = json.dumps({"inputs": [tensor], "parameters": parameters}).encode()
        return self._connections.request(
            "POST", f"/v2/models/{self._model}/infer", text + raw, token=token,
            more=(f"Inference-Header-Content-Length: {len(text)}",),
        )  # fmt: skip

    async def _ask(self, phase: Phase, request: bytes) -> Answer:
        status, body, length = await self._connections.ask(request)
        phase.statuses[status] += 1
        return Answer(status) if status != 200 or length is None else _read(body, length)

    async def _check(self, phase: Phase, question: _Question, arrived: float) -> None:
        """Ask, time from the arrival on, and compare."""
        begun = time.perf_counter()
        answer = await self._ask(phase, question.request)
        if answer.status == 400 and question.names & self._going:
            phase.statuses[400] -= 1
            phase.refused += 1
        if answer.status == 200:
            phase.latencies_ms.append(1000 * (time.perf_counter() - arrived))
            gone = {name for when, name in self._gone if when < begun}
            phase.wrong += bool(gone & set(answer.shares)) or not is_same(answer, question.alone)

    async def _closed(self) -> Phase:
        """Each client asks again when it was answered."""
        phase, begun = Phase(f"{self._plan.clients} clients"), time.perf_counter()

        async def client(number: int) -> None:
            while (now := time.perf_counter()) < begun + self._plan.seconds:
                await self._check(phase, self._questions[number % len(self._questions)], now)
                number += 1

        await asyncio.gather(*(client(number) for number in range(self._plan.clients)))
        phase.seconds = time.perf_counter() - begun
        self._say(phase.describe())
        return phase

    async def _open(self, share: float, capacity: float, erase: Sequence[str]) -> Phase:
        """Requests arrive at random."""
        rate = share * capacity
        phase, begun = Phase(f"load {share:.0%}", rate), time.perf_counter()
        running: set[asyncio.Task[None]] = set()
        changes = asyncio.create_task(self._erase(erase))
        arrival = begun
        while (arrival := arrival + self._random.exponential(1 / rate)) < begun + self._plan.seconds:
            await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
            question = self._questions[int(self._random.integers(len(self._questions)))]
            task = asyncio.create_task(self._check(phase, question, arrival))
            running.add(task)
            task.add_done_callback(running.discard)
        await _all(running)
        phase.seconds = time.perf_counter() - begun
        await changes
        self._say(phase.describe())
        return phase

    async def _erase(self, classes: Sequence[str]) -> None:
        """One after another, evenly over a phase."""
        for name in classes:
            await asyncio.sleep(self._plan.seconds / (len(classes) + 1))
            self._going.add(name)
            body = json.dumps({"classes": [name], "reason": "pfm bench load"}).encode()
            status, _, _ = await self._connections.ask(
                self._connections.request(
                    "POST", f"/v1/models/{self._model}/erase", body, token=self._tokens[0],
                    more=("Content-Type: application/json",),
                )
            )  # fmt: skip
            if status != 200:
                raise ConfigError(f"{name} could not be erased ({status}): the first token has to have that right")
            self._gone.append((time.perf_counter(), name))


async def _all(tasks: set[asyncio.Task[None]]) -> None:
    waiting: list[Awaitable[None]] = list(tasks)
    await asyncio.gather(*waiting)


def _read(body: bytes, length: int) -> Answer:
    """An answer with binary tensors."""
    found: dict[str, bytes] = {}
    place = length
    for output in json.loads(body[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        found[output["name"]] = body[place : place + size]
        place += size
    (label,) = _texts(found["labels"])
    shares = np.frombuffer(found["probabilities"], "<f4").tolist()
    return Answer(200, label, dict(zip(_texts(found["classes"]), shares, strict=True)))


def _texts(raw: bytes) -> list[str]:
    found = []
    while raw:
        size = 4 + int.from_bytes(raw[:4], "little")
        found.append(raw[4:size].decode())
        raw = raw[size:]
    return found


def is_same(answer: Answer, alone: Answer) -> bool:
    """Whether an answer is what it was alone; where classes were erased since, only the label can be judged."""
    if answer.shares.keys() != alone.shares.keys():
        return answer.label == alone.label or alone.label not in answer.shares
    return all(abs(share - alone.shares[name]) <= TOLERANCE for name, share in answer.shares.items())
