"""Inference requests and answers as the Open Inference Protocol (V2) has them, JSON or with binary tensors behind it.

With binary tensors a body is JSON, whose length a header says, and then the bytes of each tensor that has a
`binary_data_size`, in order. Numbers are little-endian; a string is its length in four bytes, and its UTF-8.

Letters: B rows, K active classes.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.storage import Json, parse_json
from pfm_export.service.refusals import bad_request, too_large
from pfm_export.service.views import Selection
from pfm_export.serving import fields
from pfm_export.serving.answers import Prediction
from pfm_export.serving.kinds import InputKind

VERSION = "1"
MOST_JSON = 8 << 20  # bytes; a reader needs up to twenty times as many
MOST_NESTED = 100_000  # lists, objects and fields of a document
MOST_VALUES = 1 << 20  # numbers and texts of it
DATATYPES = {"float32": "FP32", "uint8": "UINT8", "int32": "INT32", "int64": "INT64"}
LABELS, CLASSES, PROBABILITIES = "labels", "classes", "probabilities"
OUTPUTS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    LABELS: ("BYTES", (-1,)), CLASSES: ("BYTES", (-1,)), PROBABILITIES: ("FP32", (-1, -1)),
}  # fmt: skip
BINARY, BINARY_ALL, BINARY_SIZE = "binary_data", "binary_data_output", "binary_data_size"
PARAMETERS = ("active", "without", "profile", "timeout", BINARY_ALL)
MICROSECONDS = 1e6  # of a second: `timeout` as Triton's clients send it


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An output that a request asks for."""

    name: str
    is_binary: bool


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request.

    Attributes:
        id: the client's own, given back.
        inputs: (B, …) as the graph takes them.
        timeout: seconds; None where it names none.
        outputs: in the order asked for.
    """

    id: str
    inputs: npt.NDArray[Any]
    selection: Selection
    timeout: float | None
    outputs: tuple[Wanted, ...]


def parse_document(content: bytes | memoryview) -> dict[str, Any]:
    """An object of JSON of bounded size and depth.

    Raises:
        RefusedError: it is not one.
    """
    content = bytes(content)
    if len(content) > MOST_JSON:
        raise too_large(f"{len(content)} bytes of JSON; {MOST_JSON} are read: send tensors as binary data")
    if json.detect_encoding(content) != "utf-8":
        raise bad_request("the body is not JSON in UTF-8")
    if sum(map(content.count, (b"[", b"{", b":"))) > MOST_NESTED:
        raise bad_request(f"more than {MOST_NESTED} lists, objects and their fields in one document")
    if content.count(b",") > MOST_VALUES:
        raise too_large(f"more than {MOST_VALUES} numbers in one document: send tensors as binary data")
    try:
        return fields.mapping(parse_json(content))
    except ValueError as error:
        raise bad_request(f"the body is not a JSON object: {_short(error)}") from error


def read_infer(body: bytes | memoryview, json_length: int | None, kind: InputKind, *, max_rows: int) -> InferRequest:
    """A request for one model.

    Args:
        json_length: bytes of JSON at the start of the body; None where all of it is.
        kind: what the model takes.

    Raises:
        RefusedError: it is not what the protocol says, or not for this model.
    """
    if json_length is not None and not 0 <= json_length <= len(body):
        raise bad_request(f"the JSON is said to have {json_length} bytes; the body has {len(body)}")
    view = memoryview(body)
    document = parse_document(view[:json_length])
    try:
        parameters = _parameters(document)
        inputs = _inputs(document, view[len(body) if json_length is None else json_length :], kind, max_rows)
        timeout = parameters.get("timeout")
        return InferRequest(
            id=fields.text(document.get("id", "")),
            inputs=kind.checked(inputs),
            selection=Selection(
                active=None if parameters.get("active") is None else _names(parameters["active"]),
                without=_names(parameters.get("without") or []),
                profile=None if parameters.get("profile") is None else fields.text(parameters["profile"]),
            ),
            timeout=None if timeout is None else fields.positive(timeout) / MICROSECONDS,
            outputs=_outputs(document, is_binary=_bool(parameters.get(BINARY_ALL, False), BINARY_ALL)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else _short(error)
        raise bad_request(f"the request is not as the protocol says: {what}") from error


def _parameters(document: Mapping[str, Any]) -> dict[str, Any]:
    found = fields.mapping(document.get("parameters", {}))
    odd = [name for name in found if name not in PARAMETERS]
    if odd:
        raise ValueError(f"no parameter {odd[0][:40]!r}; there are {', '.join(PARAMETERS)}")
    return found


def _names(value: Any) -> tuple[str, ...]:
    """Names of classes: a list, a list written as JSON (for clients whose parameters are plain), or one name."""
    if isinstance(value, str) and value.startswith("["):
        value = parse_json(value.encode())
    return (value,) if isinstance(value, str) else fields.many(value, fields.text)


def _inputs(document: Mapping[str, Any], behind: memoryview, kind: InputKind, max_rows: int) -> npt.NDArray[Any]:
    name, datatype = kind.inputs[0], DATATYPES[np.dtype(kind.dtype).name]
    entries = fields.many(document["inputs"], fields.mapping)
    if len(entries) != 1 or entries[0]["name"] != name:
        raise ValueError(f"one input, {name!r}, is expected")
    (entry,) = entries
    if entry["datatype"] != datatype:
        raise ValueError(f"{name} is of type {datatype}, got {str(entry['datatype'])[:40]!r}")
    shape = fields.many(entry["shape"], fields.number)
    _check_shape(shape, kind, max_rows)
    size = _known(entry, BINARY_SIZE).get(BINARY_SIZE)
    if (size is None) == ("data" not in entry):
        raise ValueError(f"{name} needs data, or a binary_data_size")
    if size is None:
        if len(behind):
            raise ValueError(f"{len(behind)} bytes behind the JSON belong to no input")
        return _of_json(entry["data"], shape, np.dtype(kind.dtype))
    expected = math.prod(shape) * np.dtype(kind.dtype).itemsize
    if fields.number(size) != expected or len(behind) != expected:
        raise ValueError(f"{name} of shape {list(shape)} has {expected} bytes; {size} announced, {len(behind)} sent")
    return as_numbers(behind, np.dtype(kind.dtype).newbyteorder("<")).reshape(shape)


def as_numbers(content: memoryview, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The numbers of a tensor (n,), where they are; copied where they begin at an address that is not a multiple of
    their size, since numpy takes up to thirty times as long for such ones.
    """
    found = np.frombuffer(content, dtype)
    return found if found.flags.aligned else np.frombuffer(bytes(content), dtype)


def _check_shape(shape: Sequence[int], kind: InputKind, max_rows: int) -> None:
    axes = kind.axes
    is_fitting = len(shape) == 1 + len(axes) and all(
        size > 0 if isinstance(axis, str) else size == axis for size, axis in zip(shape[1:], axes, strict=False)
    )
    if not is_fitting or shape[0] < 1:
        raise ValueError(f"the shape {[-1, *axes]} is expected, got {str(list(shape))[:80]}")
    if shape[0] > max_rows:
        raise too_large(f"{shape[0]} rows in one request; {max_rows} are taken (--max_batch)")


def _of_json(data: Any, shape: Sequence[int], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Numbers of JSON, nested or not; null is NaN."""
    given: npt.NDArray[np.float64] = np.asarray(data, np.float64)  # of text, an array without a type could be huge
    if given.size != math.prod(shape):
        raise ValueError(f"{math.prod(shape)} numbers are expected, got {given.size}")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if not ((given >= limits.min) & (given <= limits.max) & (given == np.trunc(given))).all():
            raise ValueError(f"whole numbers from {limits.min} to {limits.max} are expected")
    return given.astype(dtype).reshape(shape)


def _outputs(document: Mapping[str, Any], *, is_binary: bool) -> tuple[Wanted, ...]:
    if "outputs" not in document:
        return tuple(Wanted(name=name, is_binary=is_binary) for name in OUTPUTS)
    found: list[Wanted] = []
    for entry in fields.many(document["outputs"], fields.mapping):
        name = fields.text(entry["name"])
        if name not in OUTPUTS or any(other.name == name for other in found):
            raise ValueError(f"outputs are {', '.join(OUTPUTS)}, each once; got {name[:40]!r}")
        own = _known(entry, BINARY).get(BINARY, is_binary)
        found.append(Wanted(name=name, is_binary=_bool(own, BINARY)))
    return tuple(found)


def _known(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The parameters of an input or output; one that is not there for it would change nothing, and is refused."""
    found = fields.mapping(entry.get("parameters", {}))
    odd = [name for name in found if name not in names]
    if odd:
        raise ValueError(f"no parameter {odd[0][:40]!r} of {entry['name'][:40]!r}; known: {', '.join(names)}")
    return found


def _bool(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is true or false")
    return value


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


# --- answers ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InferAnswer:
    """A body, and how much of it is JSON where it is not all."""

    body: bytes
    json_length: int | None


def write_infer(model: str, request: InferRequest, answer: Prediction) -> InferAnswer:
    """An answer in the request's form."""
    values: dict[str, list[str] | npt.NDArray[np.float32]] = {
        LABELS: answer.labels, CLASSES: list(answer.classes), PROBABILITIES: answer.probabilities
    }  # fmt: skip
    outputs: list[Json] = []
    behind: list[bytes] = []
    for wanted in request.outputs:
        value = values[wanted.name]
        shape = [len(value)] if isinstance(value, list) else list(value.shape)
        head: Json = {"name": wanted.name, "datatype": OUTPUTS[wanted.name][0], "shape": shape}
        if wanted.is_binary:
            content = _strings(value) if isinstance(value, list) else value.astype("<f4").tobytes()
            behind.append(content)
            outputs.append({**head, "parameters": {"binary_data_size": len(content)}})
        else:
            flat = value if isinstance(value, list) else value.reshape(-1).tolist()
            outputs.append({**head, "data": flat})
    document = {"model_name": model, "model_version": VERSION, "outputs": outputs}
    text = as_json({**({"id": request.id} if request.id else {}), **document})
    return InferAnswer(body=b"".join([text, *behind]), json_length=len(text) if behind else None)


def _strings(values: Sequence[str]) -> bytes:
    encoded = [value.encode("utf-8", "surrogatepass") for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


def as_json(document: Json) -> bytes:
    """One line, ASCII."""
    return json.dumps(document, separators=(",", ":"), allow_nan=False).encode()


def describe(model: str, kind: InputKind, classes: Sequence[str]) -> Json:
    """The metadata of a model, and the classes that there are for whoever asks."""
    shape = [-1, *(-1 if isinstance(axis, str) else axis for axis in kind.axes)]
    return {
        "name": model,
        "versions": [VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": kind.inputs[0], "datatype": DATATYPES[np.dtype(kind.dtype).name], "shape": shape}],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": list(sizes)} for name, (datatype, sizes) in OUTPUTS.items()
        ],
        "classes": list(classes),
    }
