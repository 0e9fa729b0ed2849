"""Bundles behind servers of others: Ray Serve's and KServe's, and KServe's clients in front of ours.

None of them is among the packages of this repository; each test says how to get what it needs.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from making.served import listening, until
from pfm_export.serving.session import PromptSession

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
SETS: list[dict[str, list[str]]] = [{}, {"without": ["blue"]}, {"active": ["red", "grey"]}, {"active": ["blue"]}]
Forms = Callable[[str], Path]


def needs(package: str, extra: str = "") -> pytest.MarkDecorator:
    is_missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(is_missing, reason=f"needs {package}: pip install '{package}{extra}'")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as place:
        return place.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join(map(str, (EXAMPLES, ROOT, ROOT / "export")))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run(script: str, *arguments: object, **more: str) -> Any:
    """What a script prints in its last line, as JSON."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, env=environment(**more), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# --- Ray Serve --------------------------------------------------------------------------------------

RAY = """
import concurrent.futures, json, subprocess, sys, urllib.error, urllib.parse, urllib.request
import ray, serve_ray
from ray import serve
from pfm_export import PromptSession

folder, port, images, sets = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])

def ask(job):
    place = f"http://127.0.0.1:{port}/?{urllib.parse.urlencode(sets[job[1]], doseq=True)}"
    try:
        with urllib.request.urlopen(place, open(images[job[0]], "rb").read(), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 << 20, _node_ip_address="127.0.0.1")
try:
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(serve_ray.app({"bundle": folder, "replicas": "2", "threads": "1"}))
    jobs = [(image, chosen) for image in range(len(images)) for chosen in range(len(sets))]
    said = {"jobs": jobs, "alone": [ask(job) for job in jobs]}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        said["together"] = list(pool.map(ask, jobs))
        PromptSession(folder, device="cpu").erase(["blue"])
        said["erased"] = list(pool.map(ask, jobs * 4))
finally:
    serve.shutdown()
    ray.shutdown()
print(json.dumps(said))
"""


@pytest.mark.slow(seconds=30)
@needs("ray", "[serve]")
@pytest.mark.parametrize("form", ["requests", "shared"])
def test_ray_serve_answers_as_the_session_and_all_replicas_refuse_what_was_erased(
    forms: Forms, tmp_path: Path, form: str
) -> None:
    folder, images = shutil.copytree(forms(form), tmp_path / "bundle"), images_in(tmp_path, 3)
    session = PromptSession(forms(form), device="cpu", threads=1)
    said = run(RAY, folder, free_port(), json.dumps(images), json.dumps(SETS), RAY_USAGE_STATS_ENABLED="0")
    for name, tolerance in (("alone", 0.0), ("together", 1e-5)):  # a pass of several rows sums in another order
        for (image, chosen), (status, answer) in zip(said["jobs"], said[name], strict=True):
            expected = session.predict_images([images[image]], **SETS[chosen])  # pyright: ignore[reportArgumentType]
            assert status == 200
            assert (answer["label"], tuple(answer["probabilities"])) == (expected.labels[0], expected.classes)
            found = np.array([*answer["probabilities"].values()], np.float32)
            assert np.abs(found - expected.probabilities[0]).max() <= tolerance
    for (_, chosen), (status, answer) in zip(said["jobs"] * 4, said["erased"], strict=True):
        is_named = "blue" in json.dumps(SETS[chosen])
        assert status == (400 if is_named else 200)
        assert is_named == ("no class 'blue'" in json.dumps(answer))
        assert "blue" not in answer.get("probabilities", {})


# --- KServe -----------------------------------------------------------------------------------------

ASK_KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

place, name, inputs, sets = sys.argv[1], sys.argv[2], np.load(sys.argv[3]), json.loads(sys.argv[4])

def request(chosen, **how):
    tensor = InferInput("pixel_values", list(inputs.shape), "FP32")
    tensor.set_data_from_numpy(inputs, binary_data=how.pop("is_binary", True))
    chosen = {key: json.dumps(names) for key, names in chosen.items()}
    return InferRequest(name, [tensor], request_id="7", parameters={**chosen, **how})

def plain(answer):
    assert answer.id == "7" and answer.model_name == name
    return {output.name: np.array(output.as_numpy()).astype(str).tolist() if output.datatype == "BYTES"
            else output.as_numpy().tolist() for output in answer.outputs}

async def main():
    said = []
    if place.startswith("http"):
        async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
            assert await client.is_server_live(place) and await client.is_server_ready(place)
            assert await client.is_model_ready(place, name) and not await client.is_model_ready(place, "no_such_model")
            for is_binary in (False, True):
                for more in ({}, {"binary_data_output": True}):
                    asked = [request(chosen, is_binary=is_binary, **more) for chosen in sets]
                    said.append([plain(await client.infer(place, each, model_name=name)) for each in asked])
    else:
        async with InferenceGRPCClient(place) as client:
            assert await client.is_server_live() and await client.is_model_ready(name)
            said.append([plain(await client.infer(request(chosen))) for chosen in sets])
    print(json.dumps(said))

asyncio.run(main())
"""


@pytest.mark.slow(seconds=10)
@needs("kserve")
def test_kserves_client_gets_the_numbers_of_the_session(forms: Forms, tmp_path: Path) -> None:
    session = PromptSession(forms("shared"), device="cpu")
    with listening(forms("shared")) as (_, address):
        require_answers(session, f"http://{address}", tmp_path)


@pytest.mark.slow(seconds=20)
@needs("kserve")
def test_the_example_behind_kserves_server_answers_as_the_session_over_http_and_grpc(
    forms: Forms, tmp_path: Path
) -> None:
    folder = shutil.copytree(forms("shared"), tmp_path / "shared")
    session = PromptSession(forms("shared"), device="cpu", threads=1)
    with example("serve_kserve.py", folder) as (http, grpc):
        require_answers(session, f"http://{http}", tmp_path)
        require_answers(session, grpc, tmp_path)
        assert refusal(http, {"without": "bluish"}) == (400, "no class 'bluish'; did you mean 'blue'?")
        assert refusal(http, {"witout": "blue"}) == (400, "no parameter 'witout'; there are active, without, profile")
        PromptSession(folder, device="cpu").erase(["blue"])
        assert refusal(http, {"active": "blue"}) == (400, "no class 'blue'")
        (folder / "bank.safetensors").write_bytes(b"")
        assert status_of(http, "models/shared/ready") == 503


def require_answers(session: PromptSession, place: str, folder: Path) -> None:
    inputs = session.input.random(3, np.random.default_rng(1))
    np.save(folder / "inputs.npy", inputs)
    for answers in run(ASK_KSERVE, place, "shared", folder / "inputs.npy", json.dumps(SETS)):
        for chosen, answer in zip(SETS, answers, strict=True):
            expected = session.predict(inputs, **chosen)  # pyright: ignore[reportArgumentType]
            assert (answer["labels"], tuple(answer["classes"])) == (expected.labels, expected.classes)
            np.testing.assert_array_equal(np.array(answer["probabilities"], np.float32), expected.probabilities)


def refusal(address: str, parameters: dict[str, str]) -> tuple[int, str]:
    """Status and error, without the list of classes."""
    entry = {"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": [0.0] * 192}
    body = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
    request = urllib.request.Request(
        f"http://{address}/v2/models/shared/infer", body, {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    return caught.value.code, json.load(caught.value)["error"].partition(" (classes")[0]


def status_of(address: str, place: str) -> int:
    try:
        with urllib.request.urlopen(f"http://{address}/v2/{place}", timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def example(name: str, folder: Path) -> Iterator[tuple[str, str]]:
    """A server of the examples, and its addresses."""
    http, grpc = free_port(), free_port()
    ports = ["--http_port", str(http), "--grpc_port", str(grpc)]
    command = [sys.executable, str(EXAMPLES / name), "--model_name", folder.name, *ports, str(folder)]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            until(lambda: server.poll() is not None or is_listening(http))
            assert server.poll() is None
            yield f"127.0.0.1:{http}", f"127.0.0.1:{grpc}"
        finally:
            server.terminate()


def is_listening(port: int) -> bool:
    with socket.socket() as place:
        return place.connect_ex(("127.0.0.1", port)) == 0


def images_in(folder: Path, count: int) -> list[str]:
    generator, names = np.random.default_rng(4), [str(folder / f"{place}.png") for place in range(count)]
    for name in names:
        Image.fromarray(generator.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(name)
    return names
