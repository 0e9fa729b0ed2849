"""What a request costs on its way to a pass and back, as clients send it: processor time of the server, and time.

    python bench/request_path.py --before CHECKOUT --out bench/pfm_bench/results/request_path.json

serves two bundles of random weights, one of pictures of 32 pixels (12 KB a request) and one of 224 (600 KB) whose graph
is next to nothing, and asks for them in blocks: head and body in one write; a millisecond apart, as a network may have
them arrive; in two writes, by `http.client`; and by `tritonclient.http`. With `--before` a server of another checkout
is asked in turn, block by block. Processor time is that of all threads of the worker, the pass with it, and is told for
the median block.
"""

import argparse
import contextlib
import http.client
import json
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

from pfm.backbones.family import PRESETS
from pfm.device import available_cores
from pfm.storage import write_compact_json
from pfm_bench.measuring.served import OwnServer, own_server
from pfm_bench.measuring.stats import paired_ratio
from pfm_bench.reports.header import FORMAT, host_facts
from pfm_bench.targets.random_bundle import random_checkpoint
from pfm_export.graph.export import export_bundle
from pfm_export.graph.form import GraphForm

Ask = Callable[[], object]
ROOT = Path(__file__).resolve().parent.parent
LARGE = {
    "model_type": "vit", "image_size": 224, "patch_size": 112, "hidden_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
SIDES = {"small": 32, "large": 224}
BLOCK = {"small": 100, "large": 40}  # requests
GAP = 0.001  # seconds


def export(folder: Path) -> list[Path]:
    """Bundles called `small` and `large`."""
    PRESETS["request_path"] = LARGE
    for name, shape in (("small", "scratch:vit_mini"), ("large", "scratch:request_path")):
        checkpoint = random_checkpoint(shape, num_classes=10, readout="cls")
        export_bundle(checkpoint, folder / name, form=GraphForm(per_request_prompts=True))
    return [folder / name for name in SIDES]


@contextlib.contextmanager
def served_from(root: Path, bundles: list[Path], log: Path) -> Iterator[OwnServer]:
    """A server of the code of a checkout."""
    before = list(sys.path)
    others = [entry for entry in before if not Path(entry or ".").resolve().is_relative_to(ROOT)]
    sys.path[:] = [*(str(root / part) for part in (".", "export", "bench")), *others]
    threads = str(len(available_cores()))  # the same of both; each might choose others
    records = str(log.with_suffix(".records"))
    try:
        with own_server(
            bundles, "--device", "cpu", "--threads", threads, "--records", records, log=log
        ) as server:  # fmt: skip
            yield server
    finally:
        sys.path[:] = before


class Client:
    """Asks one server in each way, on connections that stay."""

    def __init__(self, server: OwnServer, until: ExitStack) -> None:
        self._socket = until.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = until.enter_context(self._socket.makefile("rb"))
        self._connection = until.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)))
        self._triton = until.enter_context(triton.InferenceServerClient(f"127.0.0.1:{server.port}"))
        self.server = server

    def ways(self, model: str) -> dict[str, Ask]:
        """A request by each way."""
        inputs = np.random.default_rng(0).standard_normal((1, 3, SIDES[model], SIDES[model])).astype(np.float32)
        entry = {
            "name": "pixel_values", "datatype": "FP32", "shape": inputs.shape,
            "parameters": {"binary_data_size": inputs.nbytes},
        }  # fmt: skip
        text = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        path, body = f"/v2/models/{model}/infer", text + inputs.tobytes()
        headers = {"Inference-Header-Content-Length": str(len(text))}
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
        tensor = triton.InferInput("pixel_values", list(inputs.shape), "FP32")
        tensor.set_data_from_numpy(inputs, binary_data=True)

        def one_write() -> None:
            self._socket.sendall(head + body)
            self._read()

        def apart() -> None:
            self._socket.sendall(head)
            time.sleep(GAP)
            self._socket.sendall(body)
            self._read()

        def two_writes() -> None:
            self._connection.request("POST", path, body, headers)
            answer = self._connection.getresponse()
            answer.read()
            assert answer.status == 200

        def by_triton() -> object:
            return self._triton.infer(model, [tensor]).as_numpy("probabilities")

        return {"one write": one_write, "apart": apart, "http.client": two_writes, "tritonclient": by_triton}

    def _read(self) -> None:
        status, length = self._answers.readline(), 0
        while (line := self._answers.readline()) != b"\r\n":
            length = int(line[15:]) if line.startswith(b"content-length:") else length
        assert status == b"HTTP/1.1 200 OK\r\n"
        self._answers.read(length)


def block(server: OwnServer, ask: Ask, count: int) -> tuple[float, list[float]]:
    """Processor time of the server a request, and the time of each, in ms."""
    before, times = server.cpu_ms(), list[float]()
    for _ in range(count):
        begun = time.perf_counter()
        ask()
        times.append(1000 * (time.perf_counter() - begun))
    return (server.cpu_ms() - before) / count, times


def main() -> None:
    """Measure all ways, of one server or two."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--before", type=Path, help="another checkout, whose server is asked in turn")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each way")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    roots = {**({} if given.before is None else {"before": given.before.resolve()}), "now": ROOT}
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as until:
        folder = Path(temporary)
        bundles = export(folder)
        clients = {
            name: Client(until.enter_context(served_from(root, bundles, folder / name)), until)
            for name, root in roots.items()
        }
        for model, count in BLOCK.items():
            ways = {name: client.ways(model) for name, client in clients.items()}
            for way in ways["now"]:
                cpu: dict[str, list[float]] = {name: [] for name in clients}
                times: dict[str, list[float]] = {name: [] for name in clients}
                for number in range(-1, given.rounds):
                    for name in [*clients][:: 1 if number % 2 else -1]:
                        computed, each = block(clients[name].server, ways[name][way], count)
                        cpu[name] += [computed] * (number >= 0)
                        times[name] += each * (number >= 0)
                found: dict[str, Any] = {
                    name: {
                        "cpu_ms": statistics.median(cpu[name]), "p50_ms": statistics.median(times[name]),
                        "cpu_ms_of_blocks": cpu[name],
                    }
                    for name in clients
                }  # fmt: skip
                print(f"{model}, {way}", {k: (round(v["cpu_ms"], 3), round(v["p50_ms"], 3)) for k, v in found.items()})
                if given.before is not None:
                    found["cpu_of_before"] = paired_ratio(cpu["now"], cpu["before"]).to_dict()
                cases[f"{model}, {way}"] = found
    sizes = {name: 3 * side * side * 4 for name, side in SIDES.items()}
    command = f"python bench/request_path.py{' --before CHECKOUT' * (given.before is not None)} --rounds {given.rounds}"
    facts = {"host": host_facts(), "bytes": sizes, "block": BLOCK}
    write_compact_json(given.out, {"format": FORMAT, "command": command, **facts, "cases": cases})


if __name__ == "__main__":
    main()
