"""A graph's bytes, looked through before a runtime gets them: nothing in them may make it read other files.

ONNX lets a tensor say that its values are in another file ("external data"), and a node that a compiled engine is in
one (`EPContext`). Bundles use neither. Of the protocol buffers (onnx.proto3) only what can hold such a thing is
walked; everything else is stepped over unread, so that a graph of any size takes moments.
"""

from collections.abc import Iterator

from pfm.errors import BundleError

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
        _walk(memoryview(content), "Model", name, 0)
    except (IndexError, ValueError) as error:
        raise BundleError(f"{name} is refused: it is not an ONNX graph, or is damaged ({error})") from error


def _walk(message: memoryview, type_name: str, name: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    for field, value in _fields(message):
        if type_name == "Tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
            raise BundleError(f"{name} has weights in another file, which is not read; export again into one file")
        if type_name == "Node" and field == _OP_TYPE and bytes(value) == b"EPContext":  # type: ignore[arg-type]
            raise BundleError(f"{name} has an engine compiled elsewhere in it (EPContext), which is not run")
        inner = _MESSAGES[type_name].get(field)
        if inner is not None:
            if not isinstance(value, memoryview):
                raise ValueError("a message is not one")
            _walk(value, inner, name, depth + 1)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Number and value of each field; an IndexError or ValueError where the bytes end too soon."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if length > end - at:
            raise ValueError("a field is longer than what it is in")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")
