"""A server with eight tenants under load, from nothing: a bundle of random weights, tokens, `pfm serve`, load.

    python bench/serve_load.py --shape scratch:vit_mini --out bench/pfm_bench/results/serve_load_vit_mini.json

says what a request over HTTP costs beside the session, how much more is answered when many ask at once, latency at
shares of the capacity while classes are erased, and how the memory of the server grew. A file of the last run that is
there already is kept.
"""

import argparse
import asyncio
import hashlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from pfm.storage import Json, write_json
from pfm_bench.measuring.stats import percentiles
from pfm_bench.reports.header import FORMAT, host_facts
from pfm_bench.scenarios.load import Load
from pfm_bench.scenarios.load_plan import LoadPlan
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.session import PromptSession

TENANTS, CLASSES = 8, 10
ROUNDS, BLOCK = 10, 20  # a block of one kind, then of the other
PAUSE = 0.1  # seconds, in which the session's threads stop spinning, which would take cores from the server
KEPT = 4  # classes that no tenant's profile leaves out; two more of them are erased under load
SERVE = "from pfm.cli import main; main()"


def prepare(shape: str, folder: Path) -> tuple[Path, Path, list[str]]:
    """A bundle whose tenants see different classes, the file of their tokens, and the tokens."""
    bundle = folder / "model"
    export_bundle(
        random_checkpoint(shape, num_classes=CLASSES, readout="cls"), bundle, form=GraphForm(per_request_prompts=True)
    )
    tokens, entries = [], []
    for number in range(TENANTS):
        profile, token = f"tenant-{number}", secrets.token_urlsafe(32)
        hidden = [f"class{place}" for place in range(KEPT, CLASSES) if (place + number) % 3 == 0]
        Bundle.open(bundle).suspend(hidden, profile=profile)
        sha256 = hashlib.sha256(token.encode()).hexdigest()
        entries.append({"sha256": sha256, "profile": profile, "rights": ["predict", "erase"]})
        tokens.append(token)
    path = folder / "tokens.json"
    path.write_text(json.dumps({"tokens": entries}))
    return bundle, path, tokens


def beside_session(address: str, token: str, session: PromptSession) -> Json:
    """What one request costs over HTTP and through the session, in turn by blocks."""
    place = urlsplit(address)
    assert place.hostname is not None
    connection = http.client.HTTPConnection(place.hostname, place.port)
    inputs = session.input.random(1, np.random.default_rng(0))
    entry = {
        "name": session.input.inputs[0], "datatype": "FP32", "shape": inputs.shape,
        "parameters": {"binary_data_size": inputs.nbytes},
    }  # fmt: skip
    text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Authorization": f"Bearer {token}", "Inference-Header-Content-Length": str(len(text))}
    over_http: list[float] = []
    direct: list[float] = []
    for _ in range(ROUNDS):
        for _ in range(BLOCK):
            begun = time.perf_counter()
            connection.request("POST", "/v2/models/model/infer", text + inputs.tobytes(), headers)
            answer = connection.getresponse()
            answer.read()
            over_http.append(1000 * (time.perf_counter() - begun))
            assert answer.status == 200
        for _ in range(BLOCK):
            begun = time.perf_counter()
            session.predict(inputs, profile="tenant-0")
            direct.append(1000 * (time.perf_counter() - begun))
        time.sleep(PAUSE)
    connection.close()
    return {
        "http": {**percentiles(over_http).to_dict(), "latencies_ms": [round(value, 3) for value in over_http]},
        "session": {**percentiles(direct).to_dict(), "latencies_ms": [round(value, 3) for value in direct]},
        "overhead_p50_ms": percentiles(over_http).p50_ms - percentiles(direct).p50_ms,
    }


def resident_mib(pids: Sequence[int]) -> float:
    """Memory that processes hold."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def measure(shape: str, seconds: float, loads: str, folder: Path) -> Json:
    """All of it."""
    bundle, tokens_file, tokens = prepare(shape, folder)
    session = PromptSession(bundle, device="cpu")
    command = [sys.executable, "-c", SERVE, "serve", str(bundle), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [*command, "--tokens", str(tokens_file)], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip().removeprefix("serving on ")
        workers = [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]
        http_cost = beside_session(address, tokens[0], session)
        print(f"over HTTP {http_cost['overhead_p50_ms']:.2f} ms more than the session")
        plan = LoadPlan(address=address, sets=4, loads=loads, seconds=seconds, erase="class0,class1")
        before = resident_mib(workers)
        phases = asyncio.run(Load(plan, "model", tokens, print).run())
        after = resident_mib(workers)
    finally:
        server.terminate()
        server.wait()
    alone, together = phases[0], phases[1]
    requests = sum(sum(phase.statuses.values()) for phase in phases)
    return {
        "shape": shape,
        "tenants": TENANTS,
        "beside_session": http_cost,
        "times_one_after_another": together.per_second / alone.per_second,
        "memory": {"before_mib": before, "after_mib": after, "requests": requests},
        "phases": [phase.to_dict() for phase in phases],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", default="scratch:vit_mini")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--loads", default="0.5,0.8")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.out.exists():
        print(f"{given.out} is there; delete it to measure again")
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(given.shape, given.seconds, given.loads, Path(folder))
    command = f"python bench/serve_load.py --shape {given.shape} --seconds {given.seconds:g} --loads {given.loads}"
    write_json(given.out, {"format": FORMAT, "command": command, "host": host_facts(), **found})
    print(f"{found['times_one_after_another']:.2f} times one after another; wrote {given.out}")


if __name__ == "__main__":
    main()
