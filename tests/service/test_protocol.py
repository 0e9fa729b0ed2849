"""Bodies of the Open Inference Protocol, there and back; what is not one is refused in one line."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from pfm.errors import DataError
from pfm_export.service.refusals import RefusedError
from pfm_export.service.tensors import InferRequest, Wanted, read_infer, write_infer
from pfm_export.service.views import Selection
from pfm_export.serving.answers import Prediction
from pfm_export.serving.kinds import INPUT_KINDS, InputKind

PREPROCESS = {"kind": "image", "size": 2, "mean": [0.5] * 3, "std": [0.5] * 3, "resample": "bilinear"}
INPUTS = np.random.default_rng(0).uniform(-1, 1, (2, 3, 2, 2)).astype(np.float32)
ENTRY = {"name": "pixel_values", "datatype": "FP32", "shape": [2, 3, 2, 2]}
IN_JSON = {**ENTRY, "data": INPUTS.tolist()}
IN_BINARY = {**ENTRY, "parameters": {"binary_data_size": INPUTS.nbytes}}


def kind(name: str = "pixels") -> InputKind:
    return INPUT_KINDS.get(name)(PREPROCESS)


def read(document: Any, behind: bytes = b"", **more: Any) -> InferRequest:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    length = len(text) if behind else None
    return read_infer(text + behind, length, more.pop("kind", kind()), max_rows=4)


def test_tensors_are_the_same_numbers_in_json_nested_or_flat_and_in_binary() -> None:
    flat = {**ENTRY, "data": INPUTS.reshape(-1).tolist()}
    for found in (
        read({"inputs": [IN_JSON]}),
        read({"inputs": [flat]}),
        read({"inputs": [IN_BINARY]}, INPUTS.tobytes()),
    ):
        np.testing.assert_array_equal(found.inputs, INPUTS)
        assert found.inputs.dtype == np.float32


def test_names_of_classes_come_as_a_list_a_written_list_or_one_name() -> None:
    for given in (["red", "a, b"], '["red", "a, b"]'):
        asked = read({"inputs": [IN_JSON], "parameters": {"active": given, "timeout": 2_000_000, "profile": "ward"}})
        assert asked.selection == Selection(active=("red", "a, b"), profile="ward")
        assert asked.timeout == 2.0
    assert read({"inputs": [IN_JSON], "parameters": {"without": "a, b"}}).selection.without == ("a, b",)


def test_outputs_are_those_asked_for_in_the_form_asked_for() -> None:
    default = read({"inputs": [IN_JSON]}).outputs
    assert [(wanted.name, wanted.is_binary) for wanted in default] == [
        ("labels", False), ("classes", False), ("probabilities", False)
    ]  # fmt: skip
    asked = {"name": "labels", "parameters": {"binary_data": True}}
    found = read({"inputs": [IN_JSON], "outputs": [asked]}).outputs
    assert found == (Wanted(name="labels", is_binary=True),)


def test_an_answer_has_the_bits_of_the_prediction_in_either_form() -> None:
    shares = np.random.default_rng(1).random((2, 3), dtype=np.float32)
    answer = Prediction(["ä", "unknown"], ("ä", "b", "c"), shares)
    asked = read({"id": "7", "inputs": [IN_JSON]})
    written = write_infer("m", asked, answer)
    document = json.loads(written.body)
    outputs = {entry["name"]: entry for entry in document["outputs"]}
    assert (document["id"], document["model_name"], written.json_length) == ("7", "m", None)
    assert outputs["labels"]["data"] == ["ä", "unknown"]
    assert outputs["probabilities"]["shape"] == [2, 3]
    np.testing.assert_array_equal(np.array(outputs["probabilities"]["data"], np.float32), shares.reshape(-1))

    asked = read({"inputs": [IN_JSON], "parameters": {"binary_data_output": True}})
    written = write_infer("m", asked, answer)
    assert written.json_length is not None
    entries = json.loads(written.body[: written.json_length])["outputs"]
    behind = written.body[written.json_length :]
    sizes = [entry["parameters"]["binary_data_size"] for entry in entries]
    assert sum(sizes) == len(behind)
    assert behind[: sizes[0]] == struct.pack("<I", 2) + "ä".encode() + struct.pack("<I", 7) + b"unknown"
    assert behind[-sizes[2] :] == shares.tobytes()


DEEP: Any = 0.5
for _ in range(200):
    DEEP = [DEEP]
BAD: dict[str, Any] = {
    "nothing": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "deep": b"[" * 60_000,
    "many objects": b'{"inputs":[' + b"{}," * 100_000 + b"{}]}",
    "a key twice": b'{"id": "a", "id": "b"}',
    "NaN": b'{"inputs": [NaN]}',
    "no inputs": {},
    "inputs that are none": {"inputs": 7},
    "two inputs": {"inputs": [IN_JSON, IN_JSON]},
    "another name": {"inputs": [{**IN_JSON, "name": "pixels"}]},
    "another type": {"inputs": [{**IN_JSON, "datatype": "FP64"}]},
    "another shape": {"inputs": [{**IN_JSON, "shape": [2, 3, 4]}]},
    "a negative size": {"inputs": [{**IN_JSON, "shape": [-2, 3, 2, -2]}]},
    "a huge size": {"inputs": [{**IN_JSON, "shape": [10**30, 3, 2, 2]}]},
    "no rows": {"inputs": [{**IN_JSON, "shape": [0, 3, 2, 2], "data": []}]},
    "too many rows": {"inputs": [{**IN_JSON, "shape": [5, 3, 2, 2], "data": [0] * 60}]},
    "too few numbers": {"inputs": [{**IN_JSON, "data": [0.5]}]},
    "ragged": {"inputs": [{**IN_JSON, "data": [[1, 2], [3]]}]},
    "nested deeply": {"inputs": [{**IN_JSON, "data": DEEP}]},
    "text": {"inputs": [{**IN_JSON, "data": ["a"] * 24}]},
    "a number that is none": {"inputs": [{**IN_JSON, "data": [*[0.5] * 23, None]}]},
    "a number too large": {"inputs": [{**IN_JSON, "data": [*[0.5] * 23, 10**400]}]},
    "neither data nor bytes": {"inputs": [ENTRY]},
    "bytes that are not there": {"inputs": [IN_BINARY]},
    "an unknown output": {"inputs": [IN_JSON], "outputs": [{"name": "logits"}]},
    "an output twice": {"inputs": [IN_JSON], "outputs": [{"name": "labels"}] * 2},
    "an unknown parameter": {"inputs": [IN_JSON], "parameters": {"activ": ["red"]}},
    "classes by number": {"inputs": [IN_JSON], "parameters": {"active": [1]}},
    "no time": {"inputs": [IN_JSON], "parameters": {"timeout": 0}},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_a_request_is_refused_in_one_line(what: str) -> None:
    with pytest.raises((RefusedError, DataError)) as caught:
        read(BAD[what])
    assert 10 < len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert getattr(caught.value, "status", 400) in (400, 413)


def test_binary_tensors_have_to_be_as_long_as_they_say() -> None:
    for entry, behind in (
        (IN_BINARY, INPUTS.tobytes()[1:]),
        (IN_BINARY, INPUTS.tobytes() + b"\0"),
        (IN_JSON, b"more"),
        ({**ENTRY, "parameters": {"binary_data_size": -1}}, INPUTS.tobytes()),
    ):
        with pytest.raises(RefusedError):
            read({"inputs": [entry]}, behind)
    text = json.dumps({"inputs": [IN_JSON]}).encode()
    with pytest.raises(RefusedError, match="the body has"):
        read_infer(text, len(text) + 1, kind(), max_rows=4)


def test_pixels_are_whole_numbers_of_one_byte() -> None:
    entry = {"name": "images", "datatype": "UINT8", "shape": [1, 2, 2, 3]}
    found = read({"inputs": [{**entry, "data": list(range(12))}]}, kind=kind("images"))
    np.testing.assert_array_equal(found.inputs.reshape(-1), np.arange(12, dtype=np.uint8))
    for bad in (256, -1, 0.5, None):
        with pytest.raises(RefusedError):
            read({"inputs": [{**entry, "data": [*range(11), bad]}]}, kind=kind("images"))
