"""Names of inputs, outputs and stored tensors of an ONNX file, read off its bytes: no onnx, and no tensor is loaded.

An ONNX file is a protobuf message: a sequence of fields, each a number with a wire type, then a value; a field of wire
type 2 is a length and that many bytes. Numbers of the fields: onnx.proto (ModelProto, GraphProto, TensorProto).
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_MODEL_FIELDS = {*range(1, 9), 14, 20, 25, 26}
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 5, 11, 12, 15
_VALUE_NAME, _TENSOR_NAME = 1, 8
_LONGEST_NAME = 1 << 16


@dataclass(frozen=True)
class GraphNames:
    """What a graph takes, gives and has stored."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    stored: frozenset[str]
    is_sparse: bool


def graph_names(path: Path) -> GraphNames | None:
    """The names in a file; None where it is not an ONNX file."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _of_model(content)
    except (ValueError, IndexError, OSError):
        return None


def _of_model(content: mmap.mmap) -> GraphNames:
    graph: tuple[int, int] | None = None
    for number, kind, start, end in _fields(content, 0, len(content)):
        if number not in _MODEL_FIELDS:
            raise ValueError("not a field of a model")
        if number == _MODEL_GRAPH and kind == _BYTES:
            graph = start, end
    if graph is None:
        raise ValueError("no graph")
    inputs: list[str] = []
    outputs: list[str] = []
    stored: set[str] = set()
    is_sparse = False
    for number, kind, start, end in _fields(content, *graph):
        if kind != _BYTES:
            continue
        if number == _GRAPH_INPUT:
            inputs.append(_name(content, start, end, _VALUE_NAME))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_name(content, start, end, _VALUE_NAME))
        elif number == _GRAPH_INITIALIZER:
            stored.add(_name(content, start, end, _TENSOR_NAME))
        is_sparse = is_sparse or number == _GRAPH_SPARSE
    return GraphNames(tuple(inputs), tuple(outputs), frozenset(stored), is_sparse)


def _fields(content: mmap.mmap, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of the value of each field of a message; it has to fill the range exactly."""
    while position < end:
        tag, position = _varint(content, position, end)
        number, kind = tag >> 3, tag & 7
        start = position
        if kind == _BYTES:
            length, start = _varint(content, position, end)
            position = start + length
        elif kind == _VARINT:
            _, position = _varint(content, position, end)
        elif kind in (_FIXED64, _FIXED32):
            position += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("not a wire type")
        if position > end or not number:
            raise ValueError("a field ends behind its message")
        yield number, kind, start, position


def _varint(content: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("not a number")


def _name(content: mmap.mmap, start: int, end: int, wanted: int) -> str:
    for number, kind, begin, stop in _fields(content, start, end):
        if number == wanted and kind == _BYTES and stop - begin <= _LONGEST_NAME:
            return content[begin:stop].decode("utf-8", "replace")
    return ""
