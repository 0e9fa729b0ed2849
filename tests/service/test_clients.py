"""Clients of others, over a socket: they get the numbers of the session, for every form of graph."""

import ast
import io
import json
import re
import shlex
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from PIL import Image

from making.served import FORMS, listening
from pfm_export.serving.session import PromptSession

TYPES = {"float32": "FP32", "uint8": "UINT8"}


# in the default run one form is enough here: the engine's tests have the others
QUICK = [pytest.param(name, marks=() if name == "shared" else pytest.mark.slow) for name in FORMS]


@pytest.fixture(scope="module", params=QUICK)
def served(request: pytest.FixtureRequest, forms: Callable[[str], Path]) -> Iterator[tuple[PromptSession, str]]:
    folder = forms(request.param)
    with listening(folder, threads=1) as (_, address):
        yield PromptSession(folder, device="cpu", threads=1), address


def curl(*arguments: str, body: bytes = b"") -> str:
    """What a server says."""
    command = ["curl", "--silent", "--show-error", "--max-time", "600", *arguments]
    return subprocess.run(command, input=body, check=True, capture_output=True).stdout.decode()


def test_tritons_client_gets_the_numbers_of_the_session(served: tuple[PromptSession, str]) -> None:
    session, address = served
    name = session.folder.name
    inputs = session.input.random(3, np.random.default_rng(1))
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        stated = client.get_model_metadata(name)
        assert stated["classes"] == list(session.classes.names)
        (about,) = stated["inputs"]
        tensor = triton.InferInput(about["name"], inputs.shape, TYPES[inputs.dtype.name])
        for is_binary in (True, False):
            tensor.set_data_from_numpy(inputs, binary_data=is_binary)
            for without in ([], ["blue"]):
                found = client.infer(name, [tensor], parameters={"without": json.dumps(without)})
                expected = session.predict(inputs, without=without)
                assert texts(found, "labels") == expected.labels
                assert texts(found, "classes") == list(expected.classes)
                np.testing.assert_array_equal(found.as_numpy("probabilities"), expected.probabilities)
        with pytest.raises(triton.InferenceServerException, match=r"no class 'bluish'; did you mean 'blue'\?"):
            client.infer(name, [tensor], parameters={"without": "bluish"})


def test_curl_gets_the_numbers_of_the_session(served: tuple[PromptSession, str]) -> None:
    session, address = served
    inputs = session.input.random(1, np.random.default_rng(2))
    about = session.input.describe()
    entry = {
        "name": about["name"], "datatype": TYPES[inputs.dtype.name], "shape": inputs.shape, "data": inputs.tolist()
    }  # fmt: skip
    body = json.dumps({"inputs": [entry], "parameters": {"active": ["red", "grey"]}}).encode()
    said = curl(f"http://{address}/v2/models/{session.folder.name}/infer", "--data-binary", "@-", body=body)
    outputs = {output["name"]: output["data"] for output in json.loads(said)["outputs"]}
    expected = session.predict(inputs, ["red", "grey"])
    assert outputs["labels"] == expected.labels
    np.testing.assert_array_equal(np.array(outputs["probabilities"], np.float32), expected.probabilities[0])


def test_an_uploaded_file_is_answered_as_the_session_answers_it(served: tuple[PromptSession, str]) -> None:
    session, address = served
    content = an_image() if session.input.items == "images" else a_sound(session.manifest["preprocess"])
    said = curl(f"http://{address}/v1/predict?without=blue", "--data-binary", "@-", body=content)
    document, expected = json.loads(said), session.predict_items([content], without=["blue"])
    assert document["label"] == expected.labels[0]
    assert list(document["probabilities"]) == list(expected.classes)
    np.testing.assert_array_equal(
        np.array([*document["probabilities"].values()], np.float32), expected.probabilities[0]
    )


def texts(answer: triton.InferResult, name: str) -> list[str]:
    found = answer.as_numpy(name)
    assert found is not None
    return [text.decode() for text in found]


def an_image() -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (19, 13, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def a_sound(preprocess: dict[str, int]) -> bytes:
    """Two and a half windows."""
    rate = preprocess["sampling_rate"]
    samples = np.random.default_rng(3).integers(-9000, 9000, rate * preprocess["max_length"] // 40, dtype=np.int16)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


# --- the examples -----------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_the_examples_do_what_the_page_on_serving_says(forms: Callable[[str], Path], tmp_path: Path) -> None:
    folder, image = forms("shared"), tmp_path / "cell.png"
    image.write_bytes(an_image())
    session = PromptSession(folder, device="cpu")
    expected = session.predict_images([image], without=["blue"])
    with listening(folder) as (_, address):
        said = example("ask_server.py", f"http://{address}", str(image), "blue").splitlines()
        assert said[0] == expected.labels[0]
        assert [line.split()[-1] for line in said[1:]] == list(expected.classes)
        (line,) = example("ask_server_tensors.py", address, "shared", "blue").splitlines()
        assert line.startswith(session.predict(np.zeros((1, 3, 8, 8), np.float32), without=["blue"]).labels[0])
        shell = ["sh", str(ROOT / "examples" / "ask_server.sh"), f"http://{address}", "shared", str(image), "blue"]
        lines = subprocess.run(shell, check=True, capture_output=True, text=True).stdout.splitlines()
        about, every, left = (json.loads(line) for line in lines)
        assert about["classes"] == list(session.classes.names)
        assert every["label"] == session.predict_images([image]).labels[0]
        assert (left["label"], list(left["probabilities"])) == (expected.labels[0], list(expected.classes))
        # the command of the page
        (command,) = re.findall(r"^(curl .*/v1/predict.*)$", (ROOT / "docs" / "serving.md").read_text(), re.MULTILINE)
        words = [word.replace("localhost:8000", address) for word in shlex.split(command)]
        found = subprocess.run([*words, "--silent"], cwd=tmp_path, check=True, capture_output=True).stdout
        assert json.loads(found)["label"] == session.predict_images([image], without=["red"]).labels[0]


def example(name: str, *arguments: str) -> str:
    command = [sys.executable, "-I", str(ROOT / "examples" / name), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_examples_are_ten_lines() -> None:
    for name in ("ask_server.py", "ask_server_tensors.py"):
        tree = ast.parse((ROOT / "examples" / name).read_text())
        imports = sum(isinstance(node, ast.Import | ast.ImportFrom) for node in tree.body)
        assert len(tree.body) - 1 - imports <= 10
