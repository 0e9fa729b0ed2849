"""Who a stored row came from, without saying it: keyed hashes of the sample's content and of its source's name.

Whoever has the file has the key too, and can ask whether a sample that they hold is in it. Nobody can read a sample off
its id.
"""

import hmac
import secrets
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

ID_BYTES = 16
KEY_BYTES = 32
Ids = npt.NDArray[np.uint8]


def new_key() -> bytes:
    """A secret of its own for each fit, so that ids of two files cannot be matched."""
    return secrets.token_bytes(KEY_BYTES)


def content_id(key: bytes, content: bytes) -> bytes:
    """Of a sample as stored; zeros at its end, which fill clips up to the longest, do not count."""
    return hmac.digest(key, b"content:" + content.rstrip(b"\0"), "sha256")[:ID_BYTES]


def name_id(key: bytes, name: str) -> bytes:
    """Of the name of a sample's source."""
    return hmac.digest(key, b"name:" + name.encode(errors="surrogatepass"), "sha256")[:ID_BYTES]


def as_array(ids: Iterable[bytes]) -> Ids:
    """(n, 16)."""
    return np.frombuffer(b"".join(ids), np.uint8).reshape(-1, ID_BYTES)


def found_in(ids: Ids, wanted: bytes) -> npt.NDArray[np.bool_]:
    """(n,), which of them are that one."""
    return (ids == np.frombuffer(wanted, np.uint8)).all(axis=1)
