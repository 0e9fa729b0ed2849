"""A running server under load: one request after another, as many as it can take, and arrivals at random.

In the open loop requests arrive as a Poisson process whether or not earlier ones were answered, and a latency counts
from the moment at which the request was to arrive, so that neither a server that falls behind nor a client that is late
goes unseen. Answers are kept, and judged when a phase is over.
"""

import asyncio
import functools
import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pfm.errors import ConfigError
from pfm.storage import Json
from pfm_bench.measuring.stats import percentiles
from pfm_bench.scenarios.load_changes import Changer
from pfm_bench.scenarios.load_checks import (
    Answer,
    Asked,
    Change,
    Expected,
    Judge,
    Question,
    Tolerance,
    Verdicts,
    read_answer,
)
from pfm_bench.scenarios.load_client import Connections, Reply
from pfm_bench.scenarios.load_plan import LoadPlan

OPEN_SIZE = 224  # of an axis that the model leaves open
MOST_SAMPLES = 2000  # latencies of a phase that are kept
TYPES = {"FP32": np.float32, "UINT8": np.uint8}
CARRIED = 0.99  # share of what arrives that is answered in the time in which it arrives
IN_TURN = 3  # times what a request takes alone, that the last one of a trial may take
TRIALS, LEAST, FEWEST = 5, 0.4, 100  # rates that are tried; the lowest share of the highest rate; requests of a trial
ALONE, MOST_ALONE = 30, 5.0  # requests one after another, at least; seconds of them, at most


@dataclass(kw_only=True)
class Phase:
    """Requests of one kind of load.

    Attributes:
        asked_per_second: of the open loop; None where the next one waits for the last.
        seconds: that it took, to the last answer.
        arriving_seconds: of the open loop, to the last request.
        client_ms: what the client computed for each request.
        late_ms: how late it sent them, beside what the server made it wait.
    """

    name: str
    asked_per_second: float | None = None
    seconds: float = 0.0
    arriving_seconds: float | None = None
    client_ms: float = 0.0
    late_ms: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    verdicts: Verdicts = field(default_factory=Verdicts)

    @property
    def per_second(self) -> float:
        """Requests that were answered."""
        return self.statuses[200] / self.seconds

    def is_carried(self, alone_ms: float) -> bool:
        """Whether the server kept up: every request answered, and the last one soon.

        Args:
            alone_ms: what a request takes alone; so many times that, or so much of the trial, the last one may take.
        """
        assert self.arriving_seconds is not None
        is_whole = sum(self.statuses.values()) == self.statuses[200] + self.verdicts.refused
        soon = max((1 - CARRIED) * self.seconds, IN_TURN * alone_ms / 1000)
        return is_whole and self.seconds - self.arriving_seconds <= soon

    def to_dict(self) -> Json:
        step = max(1, -(-len(self.latencies_ms) // MOST_SAMPLES))
        late = {"late_p99_ms": percentiles(self.late_ms).p99_ms} if self.late_ms else {}
        return {
            "name": self.name,
            "asked_per_second": self.asked_per_second,
            "answered_per_second": self.per_second,
            "seconds": self.seconds,
            "arriving_seconds": self.arriving_seconds,
            "statuses": {str(status): count for status, count in sorted(self.statuses.items()) if count},
            "right": self.verdicts.right,
            "wrong": self.verdicts.wrong,
            "wrong_examples": self.verdicts.examples,
            "rightly_refused": self.verdicts.refused,
            "numbers_not_known": self.verdicts.unjudged,
            "worst_difference": self.verdicts.worst,
            "client_ms_per_request": self.client_ms,
            **late,
            **(percentiles(self.latencies_ms).to_dict() if self.latencies_ms else {}),
            "latencies_ms": [round(value, 3) for value in self.latencies_ms[::step]],
        }

    def describe(self) -> str:
        """One line."""
        rate = "" if self.asked_per_second is None else f" of {self.asked_per_second:.1f}"
        found = percentiles(self.latencies_ms) if self.latencies_ms else None
        times = "" if found is None else f"  p50 {found.p50_ms:.1f} ms  p99 {found.p99_ms:.1f} ms"
        refused = f"{self.verdicts.refused} rightly refused" if self.verdicts.refused else ""
        odd = {status: count for status, count in self.statuses.items() if status != 200 and count}
        odd[400] = odd.get(400, 0) - self.verdicts.refused
        others = ", ".join(
            [
                *(f"{count} x {status or 'broken'}" for status, count in odd.items() if count),
                *([refused] * bool(refused)),
            ]
        )
        return (
            f"{self.name:<14} {self.per_second:8.1f}{rate} requests/s{times}  wrong {self.verdicts.wrong}  {others}"
        ).rstrip()


class Load:
    """Phases against one server.

    Args:
        model: by name.
        tokens: of tenants; none where the server asks for none.
        say: is told each phase when it is over.
        expected: the right answers; else those that the same requests got when they were alone.
        tolerance: how far from them an answer may be.
    """

    def __init__(
        self,
        plan: LoadPlan,
        model: str,
        tokens: Sequence[str],
        say: Callable[[str], object],
        expected: Expected | None = None,
        tolerance: Tolerance | None = None,
    ) -> None:
        self.plan = plan
        self.changes: list[Change] = []
        self.connections = Connections(plan.address)
        self.questions: list[Question] = []
        self.asked: Sequence[Asked] = ()  # of the last phase
        self._model = model
        self._tokens = tokens or ("",)
        self._say = say
        self._random = np.random.default_rng(plan.seed)
        self._alone: dict[Question, Answer] = {}
        self._expected = expected or self._as_alone
        self._tolerance = tolerance
        self.changer = Changer(self.connections, model, self._tokens, self.changes)

    async def run(self) -> list[Phase]:
        """All phases.

        Raises:
            ConfigError: the server cannot be asked.
        """
        plan = self.plan
        try:
            await self.prepare()
            alone = await self.alone(min(MOST_ALONE, plan.seconds / 4))
            closed = await self.closed(plan.clients, plan.seconds)
            unloaded = percentiles(alone.latencies_ms).p50_ms
            capacity, trials = await self.find_capacity(closed.per_second, plan.seconds, unloaded)
            phases = [alone, closed, *trials]
            for place, share in enumerate(plan.shares):
                is_last = place == len(plan.shares) - 1
                phases.append(await self.open(share, capacity, plan.seconds, changes=is_last))
            return phases
        finally:
            await self.connections.close()

    async def prepare(self) -> None:
        """Make the questions, and ask each alone, which warms the server up too.

        Raises:
            ConfigError: the server cannot be asked.
        """
        for tenant, token in enumerate(self._tokens):
            reply = await self.connections.ask(
                self.connections.request("GET", f"/v2/models/{self._model}", token=token)
            )
            if reply.status != 200:
                raise ConfigError(f"{self.plan.address} does not serve {self._model} ({reply.status or 'no answer'})")
            about = json.loads(reply.body)
            for number in range(self.plan.sets):
                self.questions.append(self._question(about, tenant, number))
        for question in self.questions:
            reply = await self.connections.ask(question.request)
            if reply.status != 200:
                raise ConfigError(f"the server answers {reply.status or 'nothing'}: {reply.body[:200]!r}")
            self._alone[question] = read_answer(reply)

    async def alone(self, seconds: float) -> Phase:
        """One request after another, for some seconds."""
        phase, asked = Phase(name="alone"), list[Asked]()
        begun, computed, number = *self._begin(), 0
        while number < ALONE or time.perf_counter() < begun + seconds:
            question, sent = self.questions[number % len(self.questions)], time.perf_counter()
            reply = await self.connections.ask(question.request)
            asked.append(Asked(question, reply, sent, sent, time.perf_counter()))
            number += 1
        return self._ended(phase, asked, begun, computed)

    async def closed(self, clients: int, seconds: float, *, requests: int | None = None) -> Phase:
        """Each client asks again when it was answered: what the server can do.

        Args:
            requests: after which it ends, in place of the seconds.
        """
        phase, asked = Phase(name=f"{clients} clients"), list[Asked]()
        await self.connections.open(clients)
        begun, computed = self._begin()
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left, running = (requests or 1 << 60), clients

        def ask(number: int) -> None:
            nonlocal left, running
            now = time.perf_counter()
            left -= 1
            if left < 0 or (requests is None and now > begun + seconds):
                running -= 1
                if not running and not ended.done():
                    ended.set_result(None)
                return
            question = self.questions[number % len(self.questions)]

            def done(reply: Reply) -> None:
                asked.append(Asked(question, reply, now, now, time.perf_counter()))
                ask(number + 1)

            self.connections.send(question.request, done)

        for client in range(clients):
            ask(client * len(self.questions) // clients)
        await ended
        return self._ended(phase, asked, begun, computed)

    async def find_capacity(self, highest: float, seconds: float, alone_ms: float) -> tuple[float, list[Phase]]:
        """The most requests a second that are carried when they arrive at random, by halving, and what was tried.

        Args:
            highest: what is answered where a given number of requests always waits; arrivals at random make smaller
                batches, and longer queues.
            seconds: of each trial.
            alone_ms: what a request takes alone.

        Raises:
            ConfigError: none is carried.
        """
        lower, upper, trials = LEAST * highest, highest, list[Phase]()
        seconds = max(seconds, FEWEST / highest)
        is_found = False
        while len(trials) < TRIALS or not is_found:
            if len(trials) >= 2 * TRIALS:
                raise ConfigError(f"no rate down to {upper:.1f} requests/s is carried; look at the server's log")
            lower = lower if len(trials) < TRIALS else LEAST * upper  # what was taken for carried was too much
            rate = (lower + upper) / 2
            trials.append(phase := await self.open(1.0, rate, seconds, name=f"trial {len(trials) + 1}"))
            is_carried = phase.is_carried(alone_ms)
            lower, upper, is_found = (rate, upper, True) if is_carried else (lower, rate, is_found)
        self._say(f"capacity: {lower:.1f} requests/s that arrive at random")
        return lower, trials

    async def open(
        self, share: float, capacity: float, seconds: float, *, name: str = "", changes: bool = False
    ) -> Phase:
        """Requests arrive at random.

        Args:
            share: of the capacity, in requests a second.
            name: of the phase; its share unless given.
            changes: erase, suspend and restore meanwhile, as planned.
        """
        rate = share * capacity
        phase, asked = Phase(name=name or f"load {share:.0%}", asked_per_second=rate), list[Asked]()
        gaps = self._random.exponential(1 / rate, max(1, round(rate * seconds)))
        chosen = self._random.integers(len(self.questions), size=len(gaps)).tolist()
        await self.connections.open(self.plan.clients)
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        begun, computed = self._begin()
        due: list[float] = (begun + np.cumsum(gaps)).tolist()
        phase.arriving_seconds = due[-1] - begun
        ahead = time.perf_counter() - loop.time()  # of the loop's clock
        place = 0

        def arrive() -> None:
            nonlocal place
            while place < len(due) and due[place] <= time.perf_counter():
                question, when, sent = self.questions[chosen[place]], due[place], time.perf_counter()
                phase.late_ms.append(1000 * (sent - when))
                self.connections.send(question.request, functools.partial(done, question, when, sent), is_spread=True)
                place += 1
            if place < len(due):
                loop.call_at(due[place] - ahead, arrive)

        def done(question: Question, when: float, sent: float, reply: Reply) -> None:
            asked.append(Asked(question, reply, when, sent, time.perf_counter()))
            if len(asked) == len(due):
                ended.set()

        arrive()
        if changes:
            await self.changer.run(self.plan, self.questions, seconds)
        await ended.wait()
        return self._ended(phase, asked, begun, computed)

    def _begin(self) -> tuple[float, float]:
        """Times on the clock and on the CPU; what is kept of requests is not looked through while others are timed."""
        gc.collect()
        gc.disable()
        return time.perf_counter(), time.process_time()

    def _ended(self, phase: Phase, asked: Sequence[Asked], begun: float, computed: float) -> Phase:
        self.asked = asked
        gc.enable()
        phase.seconds = time.perf_counter() - begun
        phase.client_ms = 1000 * (time.process_time() - computed) / max(1, len(asked))
        phase.statuses.update(each.reply.status for each in asked)
        phase.latencies_ms = [1000 * (each.ended - each.due) for each in asked if each.reply.status == 200]
        phase.verdicts = Judge(self.changes, self._expected, self._tolerance).of(asked)
        self._say(phase.describe())
        return phase

    def _question(self, about: dict, tenant: int, number: int) -> Question:
        """The first of a tenant names no class, so that an erasure is followed; then some, or all but some.

        Of the classes that are to be erased one question in all names one, which is refused from then on.
        """
        (entry,) = about["inputs"]
        classes: tuple[str, ...] = tuple(about["classes"])
        shape = [1, *(OPEN_SIZE if size < 0 else size for size in entry["shape"][1:])]
        dtype = TYPES[entry["datatype"]]
        drawn = self._random.integers(0, 256, shape) if dtype is np.uint8 else self._random.standard_normal(shape)
        inputs = drawn.astype(dtype)
        names = [name for name in classes if name not in self.plan.erased or (tenant, number) == (0, 1)]
        most = len(names) if number % 2 else len(names) - 1
        count = int(self._random.integers(1, max(1, most) + 1)) if number else 0
        places = sorted(self._random.permutation(len(names))[:count].tolist())
        named = tuple(names[place] for place in places)
        tensor = {**entry, "shape": shape, "parameters": {"binary_data_size": inputs.nbytes}}
        what = {} if not named else {"active" if number % 2 else "without": list(named)}
        text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True, **what}}).encode()
        request = self.connections.request(
            "POST", f"/v2/models/{self._model}/infer", text + inputs.tobytes(), token=self._tokens[tenant],
            more=(f"Inference-Header-Content-Length: {len(text)}",),
        )  # fmt: skip
        is_active = bool(named) and number % 2 == 1
        return Question(
            request=request, tenant=tenant, inputs=inputs, classes=classes,
            active=named if is_active else None, without=() if is_active else named,
        )  # fmt: skip

    def _as_alone(self, question: Question, classes: Sequence[str]) -> Answer | None:
        """What the same request got when it was alone; not known where classes are missing since."""
        alone = self._alone[question]
        return alone if tuple(alone.shares) == tuple(classes) else None
