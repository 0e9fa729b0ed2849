"""A Triton server that takes our repositories, in `nvidia-pytriton`, which has one without the `onnxruntime` backend.

So each configuration is changed where it names its backend, and ONNX Runtime runs in Triton's Python backend.
Everything else of it counts as written: inputs, reshapes, batching, warm-up, ensembles.
"""

import contextlib
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from safetensors.numpy import load_file

from making.served import export_form, until
from pfm_export.graph.triton import TritonConfig, write_repository
from pfm_export.serving.session import PromptSession

# one form of each kind, and whether Triton batches it
FORMS = {"shared": False, "requests": True, "requests-cls": False, "split-images": False, "all": False}
PYTRITON = importlib.util.find_spec("pytriton")
TYPES = {"TYPE_FP32": "FP32", "TYPE_INT32": "INT32", "TYPE_UINT8": "UINT8"}
MODEL = """
import json, sys
sys.path[:0] = {path!r}
import numpy as np
import onnxruntime
import triton_python_backend_utils as backend

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        self.inputs, self.outputs = ([end["name"] for end in config[side]] for side in ("input", "output"))
        self.can_batch = config["max_batch_size"] > 0
        self.session = onnxruntime.InferenceSession(args["model_repository"] + "/1/model.onnx")

    def run(self, feeds):
        whole = {{name: np.concatenate([feed[name] for feed in feeds]) for name in self.inputs}}
        ends = np.cumsum([len(feed[self.inputs[0]]) for feed in feeds])[:-1]
        return zip(*(np.split(output, ends) for output in self.session.run(self.outputs, whole)))

    def execute(self, requests):
        # not `as_numpy` and `Tensor(name, array)`, which do not know the arrays of numpy 2
        feeds = [{{name: np.from_dlpack(backend.get_input_tensor_by_name(each, name)) for name in self.inputs}}
                 for each in requests]
        found = self.run(feeds) if self.can_batch else [self.session.run(self.outputs, feed) for feed in feeds]
        return [backend.InferenceResponse([backend.Tensor.from_dlpack(*pair) for pair in zip(self.outputs, each)])
                for each in found]
"""


@pytest.mark.slow(seconds=60)
@pytest.mark.skipif(PYTRITON is None, reason="needs Triton: pip install --no-deps nvidia-pytriton; and libpython3")
def test_a_triton_server_answers_as_the_session_and_batches_what_the_page_says(tmp_path: Path) -> None:
    for name in FORMS:
        write_repository(
            PromptSession(export_form(name, tmp_path / name), device="cpu").bundle, tmp_path / "repository",
            TritonConfig(max_batch_size=8, queue_delay_us=20_000),
        )  # fmt: skip
    with server(tmp_path / "repository", tmp_path) as address:
        for name, is_batched in FORMS.items():
            count = require_answers(PromptSession(tmp_path / name, device="cpu", threads=1), address, name)
            assert (passes(address, name) < count) == is_batched
        for trunk in ("split-images_trunk", "all_trunk"):
            assert passes(address, trunk) < 40  # of 48 requests with different active sets, and two of warm-up


def require_answers(session: PromptSession, address: str, name: str) -> int:
    """Ask for random active sets, several at a time; how many requests there were."""
    bank = load_file(session.folder / "bank.safetensors")
    numbers: dict[str, int] = {entry["name"]: entry["id"] for entry in session.manifest["classes"]}

    def rows(kind: str, active: list[str]) -> Any:
        return np.stack([bank[f"{kind}.{numbers[each]}"] for each in active])

    def ask(seed: int) -> None:
        with triton.InferenceServerClient(address) as client:
            config: Any = client.get_model_config(name)
            active = sorted(random.Random(seed).sample(session.classes.names, 1 + seed % 4), key=numbers.__getitem__)
            inputs = session.input.random(1, np.random.default_rng(seed))
            prompts = np.concatenate([bank[f"prompt.{numbers[each]}"] for each in active])
            feed = {session.input.inputs[0]: inputs, "prompts": prompts}
            ends = {end["name"]: end for end in config["input"]}
            if "prompt_lens" in ends:
                feed["prompts"] = prompts[None]
                lengths = np.array([len(prompts)], np.int32)
                feed["prompt_lens"] = lengths[:, None] if config["max_batch_size"] else lengths
            if "class_weight" in ends:
                feed |= {"class_weight": rows("weight", active), "class_bias": rows("bias", active)}
            tensors = [triton.InferInput(end, feed[end].shape, TYPES[ends[end]["data_type"]]) for end in feed]
            for tensor in tensors:
                tensor.set_data_from_numpy(np.ascontiguousarray(feed[tensor.name()]))
            found: Any = client.infer(name, tensors).as_numpy(config["output"][0]["name"])
        # a pass of several rows sums in another order
        np.testing.assert_allclose(found, session.scores(inputs, active), rtol=0, atol=1e-5)

    with ThreadPoolExecutor(12) as pool:
        return len(list(pool.map(ask, range(48))))


def passes(address: str, name: str) -> int:
    with triton.InferenceServerClient(address) as client:
        found: Any = client.get_inference_statistics(name)
        return found["model_stats"][0]["execution_count"]


@contextlib.contextmanager
def server(repository: Path, folder: Path) -> Iterator[str]:
    """Triton with these models, and its address."""
    assert PYTRITON is not None
    package = Path(str(PYTRITON.origin)).parent
    backends = Path(shutil.copytree(package / "tritonserver" / "backends", folder / "backends"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = "triton_python_backend_stub"
    shutil.copy2(package / "tritonserver" / "python_backend_stubs" / version / stub, backends / "python" / stub)
    for config in repository.glob("*/config.pbtxt"):
        lines = config.read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("backend:", "default_model_filename:"))]
        if len(kept) < len(lines):  # not an ensemble
            config.write_text("\n".join(['backend: "python"', *kept]))
            (config.parent / "1" / "model.py").write_text(MODEL.format(path=[part for part in sys.path if part]))
    with contextlib.ExitStack() as stack:
        places = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        http, grpc = (place.getsockname()[1] for place in places)
    command = [
        str(package / "tritonserver" / "bin" / "tritonserver"), f"--model-repository={repository}",
        f"--backend-directory={backends}", f"--http-port={http}", f"--grpc-port={grpc}",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--allow-metrics=false",
    ]  # fmt: skip
    libraries = {"LD_LIBRARY_PATH": str(package.parent / "nvidia_pytriton.libs")}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **libraries}, stdout=log, stderr=log)
    try:
        until(lambda: process.poll() is not None or is_ready(f"127.0.0.1:{http}"))
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        yield f"127.0.0.1:{http}"
    finally:
        process.terminate()
        process.wait(600)


def is_ready(address: str) -> bool:
    try:
        with triton.InferenceServerClient(address) as client:
            return client.is_server_ready()
    except OSError:
        return False
