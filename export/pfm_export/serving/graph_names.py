"""Names of inputs, outputs and stored tensors of an ONNX file, read off its bytes: no onnx, and no tensor is loaded.

Numbers of the fields: onnx.proto (ModelProto, GraphProto, TensorProto).
"""

import mmap
from dataclasses import dataclass
from pathlib import Path

from pfm_export.serving.wire_format import BYTES, Field, fields

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
    except (ValueError, OSError):
        return None


def _of_model(content: mmap.mmap) -> GraphNames:
    graph: Field | None = None
    for field in fields(content, 0, len(content)):
        if field.number not in _MODEL_FIELDS:
            raise ValueError("not a field of a model")
        if field.number == _MODEL_GRAPH and field.wire == BYTES:
            graph = field
    if graph is None:
        raise ValueError("no graph")
    inputs: list[str] = []
    outputs: list[str] = []
    stored: set[str] = set()
    is_sparse = False
    for field in fields(content, graph.start, graph.end):
        if field.wire != BYTES:
            continue
        if field.number == _GRAPH_INPUT:
            inputs.append(_name(content, field, _VALUE_NAME))
        elif field.number == _GRAPH_OUTPUT:
            outputs.append(_name(content, field, _VALUE_NAME))
        elif field.number == _GRAPH_INITIALIZER:
            stored.add(_name(content, field, _TENSOR_NAME))
        is_sparse = is_sparse or field.number == _GRAPH_SPARSE
    return GraphNames(tuple(inputs), tuple(outputs), frozenset(stored), is_sparse)


def _name(content: mmap.mmap, message: Field, wanted: int) -> str:
    for field in fields(content, message.start, message.end):
        if field.number == wanted and field.wire == BYTES and field.end - field.start <= _LONGEST_NAME:
            return content[field.start : field.end].decode("utf-8", "replace")
    return ""
