"""A server with eight tenants under load, from nothing: a bundle of random weights, tokens, `pfm serve`, load.

    python bench/serve_load.py --shape scratch:vit_mini --out bench/pfm_bench/results/serve_load_vit_mini.json
    python bench/serve_load.py --shape scratch:vit_base_patch16_224 --clients 16 --workers 1 \
        --only http_overhead,batching,load --out bench/pfm_bench/results/serve_load_vit_base.json

measures, a section each: what a request over HTTP costs beside the session (`http_overhead`), how much more is answered
when many ask at once (`batching`), latency at a share of the capacity while classes are erased, suspended and restored
(`load`; `load_apart` with the last of the server's CPUs for the client, `load_shared` with all of them for both), what
is answered when too many ask (`overload`), how the memory of the server grows (`memory`), and what a worker that is
killed takes with it (`kill`). The capacity is the highest rate at which requests may arrive at random so that none is
refused and no queue grows, found by halving from what is answered where many requests always wait.

Every answer is compared with `PromptSession` on a copy of the bundle. Client and server share all CPUs, unless
`--server_cpus` and `--client_cpus` say otherwise; `--rate` compares two states of the server at one rate:

    python bench/serve_load.py --server_cpus 0,1 --client_cpus 2 --out FILE
    python bench/serve_load.py --rate 500 --seconds 20 --only load --out FILE

The session that is timed beside the server has the server's CPUs, and as many threads as its passes. What the client
computes for a request is in the file, and what a hypervisor kept from the server's CPUs. A section that is in the file
already is not measured again.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from pfm.device import available_cores
from pfm.storage import write_compact_json
from pfm_bench.measuring.pinning import on_cpus, pin, read_cpus, siblings, stolen_ms
from pfm_bench.measuring.served import OwnServer, own_server
from pfm_bench.measuring.stats import percentiles
from pfm_bench.measuring.worker_ports import children, client_ports
from pfm_bench.reports.header import FORMAT, host_facts
from pfm_bench.scenarios.load import Load, Phase
from pfm_bench.scenarios.load_checks import Tolerance
from pfm_bench.scenarios.load_client import run_precisely
from pfm_bench.scenarios.load_plan import LoadPlan
from pfm_bench.scenarios.load_reference import SessionAnswers
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.service.engine import LONG_PASS
from pfm_export.service.thread_choice import open_session
from pfm_export.serving.answers import ActiveSet
from pfm_export.serving.bundle import Bundle

Json = dict[str, Any]
TENANTS, CLASSES = 8, 10
KEPT = 4  # classes that no tenant's profile leaves out; the first two of them are erased under load
BLOCKS, BLOCK = 12, 15  # a block of one kind, then of the other
PAUSE = 0.1  # seconds, in which the session's threads stop spinning, which would take cores from the server
PROMISED, WAY = 0.85, 1.5  # of the limit of p99, less so many ms for the way there and back, is what the server is told
OVER, FEW = (1.5, 3.0), 8  # times what so many clients get that always wait, few enough to wait within the bound
ROUNDS = 3  # of one after another, then many at once
FULL = 32  # rows of the largest pass, `--max_batch`
REPEATS = 5  # of a pass that is timed
SUSPENSIONS = 16
SAMPLE = 5000  # requests between two looks at the memory
CALMER = (0.5, 0.65, 0.8)  # shares of the capacity that are measured too, for a shorter time and while nothing changes
COARSE = Tolerance(probability=5e-3, tie=1e-2)
TOLERANCES = {"cpu": Tolerance(), "openvino": Tolerance(), "openvino-bf16": COARSE, "cuda": COARSE}
SETTLED = 0.2  # share of the requests after which memory should be flat


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the sections share.

    Attributes:
        bundle: never changed; each server has a copy of it.
        tokens_file, tokens: of the tenants.
        seconds: of the load.
        rate: requests a second of the load; 0 for a share of the capacity, which is looked for.
        expected: the right answers.
        server_cpus, client_cpus: that each may use.
    """

    folder: Path
    bundle: Path
    tokens_file: Path
    tokens: list[str]
    seconds: float
    requests: int
    rate: float
    share: float
    clients: int
    workers: tuple[int, ...]
    load_workers: int
    device: str
    options: tuple[str, ...]
    expected: SessionAnswers
    server_cpus: Sequence[int]
    client_cpus: Sequence[int]

    @contextmanager
    def served(self, name: str, *, workers: int = 1) -> Iterator[OwnServer]:
        """A server of a new copy of the bundle on its CPUs, and the client on its own."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix=f"{name}-")) / "model"
        shutil.copytree(self.bundle, folder)
        options = ["--device", self.device, "--workers", str(workers), "--tokens", str(self.tokens_file), *self.options]
        with ExitStack() as until:
            with on_cpus(self.server_cpus):
                server = until.enter_context(own_server([folder], *options, log=folder.with_name("log")))
            with on_cpus(self.client_cpus):
                yield server

    def bounded(self, within_ms: float) -> "Setting":
        """With servers that answer within so many milliseconds, or refuse."""
        return replace(self, options=(*self.options, "--answer_within", f"{within_ms / 1000:.4f}"))

    def load(self, server: OwnServer, **plan: Any) -> Load:
        """Of all tenants."""
        found = LoadPlan(address=server.address, clients=self.clients, **{"sets": 4, **plan})
        return Load(found, "model", self.tokens, say, self.expected, TOLERANCES[self.device])


def say(line: str) -> None:
    """What a phase was like."""
    print(f"  {line}", flush=True)


def prepare(shape: str, precision: str, work: Path, temporary: Path) -> tuple[Path, Path, list[str]]:
    """A bundle whose tenants see different classes, the file of their tokens, and the tokens."""
    bundle = work / f"{shape.replace(':', '_').replace('/', '_')}_{precision}"
    if not bundle.exists():
        export_bundle(
            random_checkpoint(shape, num_classes=CLASSES, readout="cls"), bundle,
            form=GraphForm(per_request_prompts=True, precision=precision),
        )  # fmt: skip
        for number in range(TENANTS):
            hidden = [f"class{place}" for place in range(KEPT, CLASSES) if (place + number) % 3 == 0]
            Bundle.open(bundle).suspend(hidden, profile=f"tenant-{number}")
    tokens = [secrets.token_urlsafe(32) for _ in range(TENANTS)]
    rights = ["predict", "erase", "suspend", "restore", "metrics"]
    entries = [
        {"sha256": hashlib.sha256(token.encode()).hexdigest(), "profile": f"tenant-{number}", "rights": rights}
        for number, token in enumerate(tokens)
    ]
    path = temporary / "tokens.json"
    path.write_text(json.dumps({"tokens": entries}))
    return bundle, path, tokens


def answers_as_served(bundle: Path, device: str, options: Sequence[str], cpus: Sequence[int]) -> SessionAnswers:
    """Of a session on these CPUs, with as many threads as the passes of one worker have there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--spin", action="store_true")
    told, _ = parser.parse_known_args(options)
    with on_cpus(cpus):
        threads = open_session(
            bundle, device=device, threads=told.threads or len(cpus), spin=told.spin, is_fixed=told.threads is not None
        ).threads
        return SessionAnswers(bundle, device=device, threads=threads)


def http_overhead(setting: Setting) -> Json:
    """What one request costs over HTTP and through the session, in turn by blocks, at one set and one image."""
    session = setting.expected.session
    inputs = session.input.random(1, np.random.default_rng(0))
    entry = {
        "name": session.input.inputs[0], "datatype": "FP32", "shape": inputs.shape,
        "parameters": {"binary_data_size": inputs.nbytes},
    }  # fmt: skip
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Authorization": f"Bearer {setting.tokens[0]}", "Inference-Header-Content-Length": str(len(text))}
    over_http: list[float] = []
    direct: list[float] = []
    with setting.served("overhead") as server:
        place = urlsplit(server.address)
        assert place.hostname is not None
        connection = http.client.HTTPConnection(place.hostname, place.port)
        until = time.perf_counter() + setting.seconds / 3
        for block in range(-1, BLOCKS):
            if time.perf_counter() > until:
                break
            time.sleep(PAUSE)
            for _ in range(BLOCK):
                begun = time.perf_counter()
                connection.request("POST", "/v2/models/model/infer", text + inputs.tobytes(), headers)
                answer = connection.getresponse()
                answer.read()
                over_http += [1000 * (time.perf_counter() - begun)] * (block >= 0)
                assert answer.status == 200
            time.sleep(PAUSE)
            with on_cpus(setting.server_cpus):
                for _ in range(BLOCK):
                    begun = time.perf_counter()
                    session.predict(inputs, profile="tenant-0")
                    direct += [1000 * (time.perf_counter() - begun)] * (block >= 0)
        connection.request("GET", "/metrics", headers=headers)
        threads = int(metric(connection.getresponse().read().decode(), "pfm_pass_threads"))
        connection.close()
    overhead = percentiles(over_http).p50_ms - percentiles(direct).p50_ms
    print(f"  over HTTP {overhead:.2f} ms more than the session's {percentiles(direct).p50_ms:.2f}", flush=True)
    return {
        "http": {**percentiles(over_http).to_dict(), "latencies_ms": [round(value, 3) for value in over_http]},
        "session": {**percentiles(direct).to_dict(), "latencies_ms": [round(value, 3) for value in direct]},
        "overhead_p50_ms": overhead,
        "threads": {"server": threads, "session": setting.expected.threads},
    }


def batching(setting: Setting) -> Json:
    """One after another, then many at once, in turn; with one worker of all cores, and with one for each."""
    seconds = setting.seconds / 12
    found: dict[str, Json] = {}
    for workers in setting.workers:
        with setting.served("batching", workers=workers) as server:
            rounds = run_precisely(_rounds(setting.load(server), server, seconds, setting.clients))
        times = sorted(entry["times"] for entry in rounds)
        print(f"  {workers} workers: {times[len(times) // 2]:.2f} times one after another")
        found[f"workers_{workers}"] = {"times_one_after_another": times[len(times) // 2], "rounds": rounds}
    return found


async def _rounds(load: Load, server: OwnServer, seconds: float, clients: int) -> list[Json]:
    await load.prepare()
    await load.closed(clients, seconds / 2)  # warms up
    rounds: list[Json] = []
    for _ in range(ROUNDS):
        before = server.cpu_ms()
        one = await load.alone(seconds)
        alone_ms = (server.cpu_ms() - before) / sum(one.statuses.values())
        before = server.cpu_ms()
        many = await load.closed(clients, seconds)
        computed = (server.cpu_ms() - before) / sum(many.statuses.values())
        rounds.append({
            "times": many.per_second / one.per_second, "server_ms_per_request": computed,
            "server_ms_alone": alone_ms,
            "alone": short(one), "many": short(many),
        })  # fmt: skip
    await load.connections.close()
    return rounds


def load(setting: Setting) -> Json:
    """Arrivals at random at a share of the capacity, classes erased, suspended and restored beside them.

    Twice at the same rate: with a queue that is bounded by its rows, as a server has it unless told otherwise, and by
    the time that an answer may take (`--answer_within`), so that p99 can be within the limit; what is refused is told.
    """
    largest = largest_pass(setting)
    with setting.served("load", workers=setting.load_workers) as server:
        phases, found = run_precisely(_calm_and_loaded(setting, server))
    p50 = percentiles(phases[0].latencies_ms).p50_ms
    limit = 3 * p50 + largest["ms"]
    within = PROMISED * limit - WAY
    bounded = setting.bounded(within)
    with bounded.served("bounded", workers=setting.load_workers) as server:
        bound = run_precisely(_bounded(bounded, server, found["capacity_per_second"] or setting.rate / setting.share))
    for name, section in (("a queue of rows", found), ("a bounded time", bound)):
        print(
            f"  {name}: p99 {section['p99_ms']:.1f} ms; 3 x {p50:.2f} + {largest['ms']:.1f} = {limit:.1f}; refused "
            f"{section['refused_share']:.2%}; wrong {section['wrong']}"
        )
    return {
        "share": setting.share, "workers": setting.load_workers, "largest_pass": largest, "p50_alone_ms": p50,
        "limit_ms": limit, "limit_with_mean_pass_ms": 3 * p50 + found["mean_pass"]["ms"], **found,
        "bounded": {"answer_within_ms": within, **bound},
        "phases": [phase.to_dict() for phase in phases],
    }  # fmt: skip


async def _calm_and_loaded(setting: Setting, server: OwnServer) -> tuple[list[Phase], Json]:
    """One after another, many that always wait, the capacity, shares of it while nothing changes, then with changes."""
    load = setting.load(server, erase="class0,class1", suspensions=SUSPENSIONS)
    await load.prepare()
    mean_passes: list[dict[str, float]] = []

    async def counted(asking: Awaitable[Phase]) -> Phase:
        before = await passes(load, setting.tokens[0])
        phase = await asking
        mean_passes.append(mean_pass(before, await passes(load, setting.tokens[0])))
        return phase

    alone = await counted(load.alone(setting.seconds / 12))
    closed = await counted(load.closed(setting.clients, setting.seconds / 12))
    unloaded = percentiles(alone.latencies_ms).p50_ms
    capacity, trials = setting.rate / setting.share, list[Phase]()
    if not setting.rate:
        capacity, trials = await load.find_capacity(closed.per_second, setting.seconds / 12, unloaded)
    calmer = [await counted(load.open(share, capacity, setting.seconds / 4)) for share in CALMER]
    loaded, found = await _loaded(setting, server, load, capacity)
    await load.connections.close()
    tried = [{**short(phase), "is_carried": phase.is_carried(unloaded)} for phase in trials]
    return [alone, closed, *calmer, loaded], {
        "capacity_per_second": None if setting.rate else capacity, "closed_per_second": closed.per_second,
        "trials": tried,
        "mean_passes": [*mean_passes, found["mean_pass"]], **found,
    }  # fmt: skip


async def _bounded(setting: Setting, server: OwnServer, capacity: float) -> Json:
    load = setting.load(server, erase="class0,class1", suspensions=SUSPENSIONS)
    await load.prepare()
    warm = await load.closed(1, setting.seconds / 12)
    loaded, found = await _loaded(setting, server, load, capacity)
    await load.connections.close()
    return {**found, "p50_one_client_ms": percentiles(warm.latencies_ms).p50_ms, "phase": loaded.to_dict()}


async def _loaded(setting: Setting, server: OwnServer, load: Load, capacity: float) -> tuple[Phase, Json]:
    """The share of the capacity, with changes: what came of it, and around it."""
    before = await passes(load, setting.tokens[0])
    stolen, computed = stolen_ms(setting.server_cpus), server.cpu_ms()
    phase = await load.open(setting.share, capacity, setting.seconds, changes=True)
    computed = (server.cpu_ms() - computed) / sum(phase.statuses.values())
    stolen = stolen_ms(setting.server_cpus) - stolen
    begun = min(each.due for each in load.asked)
    changed = [
        {
            "at": round(change.asked - begun, 3), "name": change.name,
            "is_there": change.is_there, "ms": round(1000 * (change.answered - change.asked), 1),
        }
        for change in load.changes
    ]  # fmt: skip
    errors = sum(n for status, n in phase.statuses.items() if status not in (200, 429)) - phase.verdicts.refused
    return phase, {
        "mean_pass": mean_pass(before, await passes(load, setting.tokens[0])),
        "p99_ms": percentiles(phase.latencies_ms).p99_ms,
        "refused_share": phase.statuses[429] / sum(phase.statuses.values()),
        "wrong": phase.verdicts.wrong,
        "errors_not_429": errors,
        "server_ms_per_request": computed,
        "stolen_ms": stolen,
        "by_second": by_second(load, begun),
        "changes": changed,
    }


def overload(setting: Setting) -> Json:
    """More arrivals than can be answered, with a bounded time: what is answered all the same, and how soon."""
    within = _pass_ms(setting, 1) + 2 * largest_pass(setting)["ms"]
    bounded = setting.bounded(within)
    with bounded.served("overload", workers=setting.load_workers) as server:
        rounds = run_precisely(_overloaded(bounded, server))
    for times in OVER:
        kept = [entry["answered_to_clients"] for each in rounds for entry in each if entry["times"] == times]
        print(f"  {times} times as many: {np.median(kept):.2f} of what clients that wait get is answered")
    return {"answer_within_ms": within, "rounds": rounds}


async def _overloaded(setting: Setting, server: OwnServer) -> list[list[Json]]:
    load = setting.load(server)
    await load.prepare()
    await load.closed(FEW, setting.seconds / 24)  # warms up
    rounds: list[list[Json]] = []
    for _ in range(ROUNDS):
        per_second, found = 0.0, list[Json]()
        for times in (0, *OVER):
            before = server.cpu_ms()
            seconds = setting.seconds / 12
            phase = await (load.open(times, per_second, seconds) if times else load.closed(FEW, seconds))
            per_second = per_second or phase.per_second
            found.append({
                "times": times, "answered_to_clients": phase.per_second / per_second,
                "server_ms_per_request": (server.cpu_ms() - before) / sum(phase.statuses.values()), **short(phase),
            })  # fmt: skip
        rounds.append(found)
    await load.connections.close()
    return rounds


def by_second(load: Load, begun: float) -> list[list[float]]:
    """p50, p99 and the greatest latency in milliseconds of what was due in each second of the last phase."""
    found: dict[int, list[float]] = {}
    for each in load.asked:
        if each.reply.status == 200:
            found.setdefault(int(each.due - begun), []).append(1000 * (each.ended - each.due))
    return [np.quantile(found[second], (0.5, 0.99, 1)).round(1).tolist() for second in sorted(found)]


def largest_pass(setting: Setting) -> Json:
    """The largest that the server makes of requests of one image, of different sets; nothing else runs.

    That is `--max_batch` rows, and fewer of a model whose rows take long.
    """
    row = _pass_ms(setting, 1)
    rows = min(FULL, max(1, int(1000 * LONG_PASS / row)))
    return {"rows": rows, "ms": row if rows == 1 else _pass_ms(setting, rows)}


def _pass_ms(setting: Setting, rows: int) -> float:
    session = setting.expected.session
    inputs = session.input.random(rows, np.random.default_rng(0))
    sets = [ActiveSet(profile=f"tenant-{number % TENANTS}") for number in range(rows)]
    times: list[float] = []
    with on_cpus(setting.server_cpus):
        for _ in range(REPEATS):
            begun = time.perf_counter()
            session.predict_each(inputs, sets)
            times.append(1000 * (time.perf_counter() - begun))
    return float(np.median(times))


def mean_pass(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Of those between two looks at the metrics."""
    count = max(1.0, after["count"] - before["count"])
    return {
        "rows": (after["rows"] - before["rows"]) / count,
        "ms": 1000 * (after["seconds"] - before["seconds"]) / count,
    }


async def passes(load: Load, token: str) -> dict[str, float]:
    """How many passes there were, of how many rows, and how long, as the server's metrics say."""
    reply = await load.connections.ask(load.connections.request("GET", "/metrics", token=token))
    text = reply.body.decode()
    return {
        "count": metric(text, "pfm_batch_rows_count"), "rows": metric(text, "pfm_batch_rows_sum"),
        "seconds": metric(text, "pfm_pass_seconds_sum"),
    }  # fmt: skip


def metric(text: str, name: str) -> float:
    """Of the one model, in the server's metrics."""
    found = re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])


def memory(setting: Setting) -> Json:
    """Resident memory of each kind of process of the server, looked at every so many requests."""

    async def measure(server: OwnServer) -> tuple[list[Json], int, int]:
        load = setting.load(server, sets=8)
        await load.prepare()
        samples = [{"requests": 0, **_held(server)}]
        wrong = others = done = 0
        while done < setting.requests:
            phase = await load.closed(setting.clients, 0, requests=min(SAMPLE, setting.requests - done))
            done += sum(phase.statuses.values())
            wrong, others = wrong + phase.verdicts.wrong, others + done_otherwise(phase)
            samples.append({"requests": done, **_held(server)})
        await load.connections.close()
        return samples, wrong, others

    with setting.served("memory") as server:
        samples, wrong, others = run_precisely(measure(server))
    settled = [entry for entry in samples if entry["requests"] >= SETTLED * setting.requests]
    slope = np.polyfit([entry["requests"] for entry in settled], [entry["mib"] for entry in settled], 1)[0]
    grown = settled[-1]["mib"] - settled[0]["mib"]
    print(
        f"  {grown:+.1f} MiB from request {settled[0]['requests']} on, {1e5 * slope:.2f} MiB in 100,000 requests; then "
        f"the worker {samples[-1]['mib']} MiB, its clerk {samples[-1]['clerk_mib']}, their parent "
        f"{samples[-1]['parent_mib']}; all {samples[-1]['all_mib']}, each with its share of what several have"
    )
    return {
        "requests": samples[-1]["requests"], "wrong": wrong, "errors": others, "grown_mib": grown,
        "grown_from_request": settled[0]["requests"], "mib_per_100000_requests": 1e5 * slope, "samples": samples,
    }  # fmt: skip


def _held(server: OwnServer) -> dict[str, float]:
    """MiB of the worker, of the process beside it that changes bundles, of the one that keeps them, and of all."""
    found = server.memory_mib()
    held = {"mib": found.worker, "clerk_mib": found.clerk, "parent_mib": found.parent, "all_mib": found.together}
    return {name: round(value, 2) for name, value in held.items()}


def done_otherwise(phase: Phase) -> int:
    """Requests that were not answered."""
    return sum(count for status, count in phase.statuses.items() if status != 200)


def kill(setting: Setting) -> Json:
    """One of two workers is killed under load, behind an erasure and a suspension; another one takes its place."""
    with setting.served("kill", workers=2) as server:
        return run_precisely(_killed(setting, server))


async def _killed(setting: Setting, server: OwnServer) -> Json:
    load = setting.load(server, erase="class0")
    await load.prepare()
    capacity = await load.closed(setting.clients, setting.seconds / 20)
    await load.changer.change("erase", "class0", 0)
    await load.changer.change("suspend", "class1", 1)
    other, victim = sorted(children(server.pid), key=lambda pid: len(client_ports(pid)))
    seconds = setting.seconds / 3
    lost: Json = {}

    async def strike() -> None:
        await asyncio.sleep(seconds / 4)
        ports = client_ports(victim)
        os.kill(victim, signal.SIGKILL)
        killed = time.perf_counter()
        lost.update(ports=ports, others=len(client_ports(other)))
        while not (new := [pid for pid in children(server.pid) if pid not in (victim, other)]):
            await asyncio.sleep(0.02)
        while not client_ports(new[0]):  # it takes connections
            reply = await load.connections.ask(load.connections.request("GET", "/v2/health/live"))
            assert reply.status in (0, 200)
            await load.connections.open(load.connections.idle + 1)
            await asyncio.sleep(0.02)
        lost.update(again=time.perf_counter() - killed, new=new[0])

    striking = asyncio.create_task(strike())
    phase = await load.open(0.5, capacity.per_second, seconds)
    broken = [each for each in load.asked if each.reply.status == 0]
    strangers = [each for each in broken if each.reply.port not in lost["ports"]]
    await striking
    # those that are open were nearly all opened before it was there, and stay with the other one
    await load.connections.close()
    after = await load.closed(setting.clients, setting.seconds / 20)
    ports = client_ports(lost["new"])
    by_new = [each for each in load.asked if each.reply.port in ports and each.reply.status == 200]
    await load.connections.close()
    print(
        f"  {len(broken)} broken, {len(strangers)} of them on connections of the other worker; "
        f"again after {lost['again']:.2f} s; then {len(by_new)} of {len(load.asked)} answered by the new one"
    )
    return {
        "connections_of_the_killed": len(lost["ports"]), "connections_of_the_other": lost["others"],
        "broken": len(broken), "broken_on_the_other_worker": len(strangers),
        "seconds_until_another": lost["again"], "answered_by_the_new_one": len(by_new),
        "connections_of_the_new_one": len(ports),
        "wrong": phase.verdicts.wrong + after.verdicts.wrong, "phase": phase.to_dict(), "after": short(after),
    }  # fmt: skip


def short(phase: Phase) -> Json:
    """A phase without its latencies."""
    return {name: value for name, value in phase.to_dict().items() if name != "latencies_ms"}


def load_apart(setting: Setting) -> Json:
    """As `load`, the last of the server's CPUs for the client alone."""
    *server_cpus, client_cpu = setting.server_cpus
    expected = answers_as_served(setting.bundle, setting.device, setting.options, server_cpus)
    return load(replace(setting, server_cpus=server_cpus, client_cpus=[client_cpu], expected=expected))


def load_shared(setting: Setting) -> Json:
    """As `load`, server and client on the server's CPUs."""
    return load(replace(setting, client_cpus=setting.server_cpus))


SECTIONS: dict[str, Callable[[Setting], Json]] = {
    each.__name__: each for each in (http_overhead, batching, load, load_apart, load_shared, overload, memory, kill)
}  # fmt: skip


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="scratch:vit_mini")
    parser.add_argument("--precision", default="fp32", help="of the bundle")
    parser.add_argument("--device", default="cpu", choices=TOLERANCES, help="of server and session")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the load; the other sections take a share")
    parser.add_argument("--rate", type=float, default=0.0, help="requests/s of the load, in place of a share")
    parser.add_argument("--share", type=float, default=0.8, help="of the capacity")
    parser.add_argument("--clients", type=int, default=64, help="requests at a time that always wait")
    parser.add_argument("--server_cpus", default="", help="such as 0,2-3, as `taskset -c` takes them; all")
    parser.add_argument("--client_cpus", default="", help="those of the server")
    parser.add_argument("--workers", default="", help="of the section batching; one, and one for each of its CPUs")
    parser.add_argument("--load_workers", type=int, default=1, help="of the section load")
    parser.add_argument("--options", default="", help="more of `pfm serve`, such as '--passes 2'")
    parser.add_argument("--requests", type=int, default=200_000, help="of the section memory")
    parser.add_argument("--only", default="http_overhead,batching,load,load_apart,overload,memory,kill")
    parser.add_argument("--work", type=Path, help="folder where the bundle stays for the next run")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    only = [name for name in given.only.split(",") if name]
    server_cpus = read_cpus(given.server_cpus) or tuple(available_cores())
    unknown = [name for name in only if name not in SECTIONS]
    if unknown:
        parser.exit(2, f"serve_load.py: --only {','.join(unknown)}: the sections are {', '.join(SECTIONS)}\n")
    if load_apart.__name__ in only and len(server_cpus) < 2:
        parser.exit(
            2,
            f"serve_load.py: {load_apart.__name__} takes one of the server's CPUs for the client, and there is one; "
            "name two with --server_cpus, or leave it out of --only\n",
        )
    client_cpus = read_cpus(given.client_cpus) or server_cpus
    document: Json = json.loads(given.out.read_text()) if given.out.exists() else {"format": FORMAT, "sections": {}}
    with tempfile.TemporaryDirectory() as temporary:
        work = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        bundle, tokens_file, tokens = prepare(given.shape, given.precision, work, Path(temporary))
        pin(server_cpus)
        expected = answers_as_served(bundle, given.device, given.options.split(), server_cpus)
        os.sched_setaffinity(0, client_cpus)
        setting = Setting(
            folder=Path(temporary), bundle=bundle, tokens_file=tokens_file, tokens=tokens, seconds=given.seconds,
            requests=given.requests, rate=given.rate, share=given.share, clients=given.clients,
            workers=tuple(dict.fromkeys(map(int, (given.workers or f"1,{len(server_cpus)}").split(",")))),
            load_workers=given.load_workers, device=given.device, options=tuple(given.options.split()),
            expected=expected, server_cpus=server_cpus, client_cpus=client_cpus,
        )  # fmt: skip
        host = {
            **host_facts(), "server_cpus": server_cpus, "client_cpus": client_cpus,
            "thread_siblings": siblings([*server_cpus, *client_cpus]),
        }  # fmt: skip
        for name in only:
            if name in document["sections"]:
                print(f"{name}: is there already")
                continue
            print(f"{name}:", flush=True)
            begun = time.perf_counter()
            found = SECTIONS[name](setting)
            changed = [
                f" --{option}={shlex.quote(str(getattr(given, option)))}"
                for option in ("precision", "device", "rate", "server_cpus", "client_cpus", "load_workers", "options")
                if getattr(given, option) != parser.get_default(option)
            ]
            options = f"--shape {given.shape} --seconds {given.seconds:g} --clients {given.clients}{''.join(changed)}"
            command = f"python bench/serve_load.py {options} --only {name}"
            document["sections"][name] = {"command": command, "took_s": round(time.perf_counter() - begun, 1), **found}
            document |= {"host": host, "shape": given.shape, "tenants": TENANTS}
            write_compact_json(given.out, document)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
