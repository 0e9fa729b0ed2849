"""An array in an `.npz`, looked at before it is unpacked: its header has to fit what is stored, and that its file."""

import math
from typing import Any

import numpy as np

from pfm.data.limits import LARGE_BYTES, MOST_EXPANSION


class CheckedArchive:
    """The arrays of an open `.npz`, each looked at before it is read."""

    def __init__(self, file: Any, most_expansion: int) -> None:
        self._file = file
        self._most_expansion = most_expansion

    @property
    def files(self) -> list[str]:
        """Names of the arrays."""
        return self._file.files

    def __getitem__(self, key: str) -> Any:
        check_member(self._file, key, self._most_expansion)
        return self._file[key]


def check_member(file: Any, key: str, most_expansion: int = MOST_EXPANSION) -> None:
    """Refuse an array that claims more than it has, that would execute code, or that unpacks absurdly.

    Args:
        file: an open `numpy.lib.npyio.NpzFile`.
        most_expansion: how many times its compressed size a large array may have.

    Raises:
        ValueError: which of these.
    """
    entry = file.zip.getinfo(key if key in file.zip.namelist() else f"{key}.npy")
    if entry.file_size > max(LARGE_BYTES, most_expansion * entry.compress_size):
        raise ValueError(
            f"{key} unpacks from {entry.compress_size} bytes to {entry.file_size}, {most_expansion:g} times at most "
            "are expected (--max_expansion)"
        )
    with file.zip.open(entry) as member:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{key} is of an unknown format {version}")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
        left = entry.file_size - member.tell()
    if dtype.hasobject:
        raise ValueError(f"{key} holds Python objects, which are not loaded")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != left:
        raise ValueError(f"{key} claims a shape of {str(shape)[:60]} and has {left} bytes")
