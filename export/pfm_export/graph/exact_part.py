"""The part of a graph whose numbers are integers: from the features on, it stays float32 in every precision.

A projection of -1, 0 and 1 (int8, with a Cast) and all before it back to the features' normalisation, and all behind
it, is cut off; the rest is converted; the part is put back as it was.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# onnx leaves the types of some of its own functions open

from collections.abc import Callable, Sequence

import onnx
from onnx import TensorProto, helper

PREFIX = "exact/"  # of the part's own constants
FIRST = "LayerNormalization"  # the normalisation of features, in front of which nothing is exact


def exact_nodes(proto: onnx.ModelProto) -> set[int]:
    """Places of the nodes of the exact part; none where there is no integer projection."""
    nodes = list(proto.graph.node)
    integers = {entry.name for entry in proto.graph.initializer if entry.data_type == TensorProto.INT8}
    casts = {node.output[0]: i for i, node in enumerate(nodes) if node.op_type == "Cast" and node.input[0] in integers}
    starts = [i for i, node in enumerate(nodes) if node.op_type == "MatMul" and node.input[1] in casts]
    if not starts:
        return set()
    maker = {name: i for i, node in enumerate(nodes) for name in node.output}
    found = set[int]()
    todo = list(starts)
    while todo:  # back to the features
        place = todo.pop()
        if place in found:
            continue
        found.add(place)
        if nodes[place].op_type != FIRST:
            todo += [maker[name] for name in nodes[place].input if name in maker]
    made = {name for start in starts for name in nodes[start].output}
    for i, node in enumerate(nodes):  # on to the end; a node stands behind what it takes
        if made & set(node.input):
            found.add(i)
            made |= set(node.output)
    return found


def convert_around(
    proto: onnx.ModelProto, exact: set[int], convert: Callable[[onnx.ModelProto], onnx.ModelProto]
) -> onnx.ModelProto:
    """Convert all but some nodes.

    Args:
        exact: places of the nodes that stay as they are.
    """
    if not exact:
        return convert(proto)
    nodes = list(proto.graph.node)
    rest = [node for i, node in enumerate(nodes) if i not in exact]
    part = [node for i, node in enumerate(nodes) if i in exact]
    if not rest:
        return proto
    made = {name for node in rest for name in node.output}
    passed = sorted({name for node in part for name in node.input if name in made})
    inputs, outputs = list(proto.graph.input), list(proto.graph.output)
    constants = {entry.name: entry for entry in proto.graph.initializer}
    known = {info.name: info for info in proto.graph.value_info}
    front = onnx.ModelProto()
    front.CopyFrom(proto)
    used = {name for node in rest for name in node.input}
    _replace(front.graph.node, rest)
    _replace(front.graph.input, [entry for entry in inputs if entry.name in used])
    _replace(front.graph.initializer, [constants[name] for name in constants if name in used])
    ends = [known.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in passed]
    _replace(front.graph.output, ends)
    whole = convert(front)
    own = {name for node in part for name in node.input if name in constants}
    for node in part:
        _replace(node.input, [PREFIX + name if name in own else name for name in node.input])
    for name in sorted(own):
        constant = onnx.TensorProto()
        constant.CopyFrom(constants[name])
        constant.name = PREFIX + name
        whole.graph.initializer.append(constant)
    whole.graph.node.extend(part)
    _replace(whole.graph.input, inputs)
    _replace(whole.graph.output, outputs)
    return whole


def _replace(field: object, values: Sequence[object]) -> None:
    """Put other entries into a repeated field."""
    kept = [_copy(value) for value in values]
    del field[:]  # type: ignore[attr-defined]  # protobuf's repeated fields have no type of their own
    field.extend(kept)  # type: ignore[attr-defined]


def _copy(value: object) -> object:
    """Of a message; deleting a field's entries takes the messages with them."""
    if isinstance(value, str):
        return value
    other = type(value)()
    other.CopyFrom(value)  # type: ignore[attr-defined]
    return other
