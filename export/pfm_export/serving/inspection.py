"""A graph's bytes, looked through before a runtime gets them: nothing in them may make it read other files.

ONNX lets a tensor say that its values are in another file ("external data"), and a node that a compiled engine is in
one (`EPContext`). Bundles use neither. Of the protocol buffers (onnx.proto3) only what can hold such a thing is
walked; everything else is stepped over unread, so that a graph of any size takes moments.
"""

from dataclasses import dataclass

from pfm.errors import BundleError
from pfm_export.serving.wire_format import BYTES, Field, fields

# number of a field -> the message in it; what is not named is stepped over
_MESSAGES: dict[str, dict[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION, _OP_TYPE = 13, 14, 4
_DEEPEST = 64  # graphs within graphs


def check_graph(content: bytes, name: str) -> None:
    """Refuse a graph that names other files.

    Raises:
        BundleError: it does, or is not a graph.
    """
    try:
        _Inspection(content, name).walk("Model", 0, len(content), 0)
    except ValueError as error:
        raise BundleError(f"{name} is refused: it is not an ONNX graph, or is damaged ({error})") from error


@dataclass(frozen=True)
class _Inspection:
    content: bytes
    name: str

    def walk(self, type_name: str, start: int, end: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        for field in fields(self.content, start, end):
            if type_name == "Tensor":
                self._check_tensor(field)
            elif type_name == "Node" and field.number == _OP_TYPE:
                self._check_operator(self.content[field.start : field.end])
            inner = _MESSAGES[type_name].get(field.number)
            if inner is not None:
                if field.wire != BYTES:
                    raise ValueError("a message is not one")
                self.walk(inner, field.start, field.end, depth + 1)

    def _check_tensor(self, field: Field) -> None:
        if field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and (field.value or field.wire == BYTES)):
            raise BundleError(f"{self.name} has weights in another file, which is not read; export again into one file")

    def _check_operator(self, operator: bytes) -> None:
        if operator == b"EPContext":
            raise BundleError(f"{self.name} has an engine compiled elsewhere in it (EPContext), which is not run")
