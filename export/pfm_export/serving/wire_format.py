"""The fields of a protocol buffer message, read off its bytes: no schema, no copy, nothing is loaded.

A message is a sequence of fields: a number with a wire type, then a value, which of wire type 2 is a length and that
many bytes (protobuf.dev, "Encoding"). ONNX files are such messages.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple

Content = bytes | mmap.mmap
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Field(NamedTuple):
    """A field: its number and wire type, and where its value is; `value` is that of a number, else 0."""

    number: int
    wire: int
    start: int
    end: int
    value: int


def fields(content: Content, start: int, end: int) -> Iterator[Field]:
    """The fields of the message at `start`, which has to fill the bytes up to `end` exactly.

    Raises:
        ValueError: it does not, or is not a message.
    """
    position = start
    while position < end:
        tag, position = _varint(content, position, end)
        number, wire, begin, value = tag >> 3, tag & 7, position, 0
        if wire == BYTES:
            length, begin = _varint(content, position, end)
            position = begin + length
        elif wire == VARINT:
            value, position = _varint(content, position, end)
        elif wire in (FIXED64, FIXED32):
            position += 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"a field of wire type {wire}")
        if position > end or not number:
            raise ValueError("a field is longer than what it is in")
        yield Field(number, wire, begin, position, value)


def _varint(content: Content, position: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise ValueError("a number is cut off")
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
