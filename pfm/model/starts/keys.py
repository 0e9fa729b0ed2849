"""The keys that secret starts are drawn from, and the file that keeps them where somebody asks for that.

A file has a heading and a line a class, in order of the classes' names: 64 hexadecimal digits, a blank, and the name as
JSON. It is read only in that form, so that what was read can be written again to the byte.

Knows no torch.
"""

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from pfm.errors import ConfigError, StorageError, explain
from pfm.storage import unfinished

HEADING = "pfm keys of prompt starts, 1"
KEY_BYTES = 32
_LINE = re.compile(r"([0-9a-f]{64}) (\".*\")")

Keys = dict[str, bytes]  # by the class's name


def fresh_keys(names: Sequence[str]) -> list[bytes]:
    """A new key for each class, from the system's source of randomness."""
    return [secrets.token_bytes(KEY_BYTES) for _ in names]


def stand_ins(names: Sequence[str]) -> list[bytes]:
    """Keys that anybody can make, the same each time: for a model that is compared with and that no class learns."""
    return [hashlib.sha256(f"stand-in {name}".encode(errors="surrogatepass")).digest() for name in names]


def keys_from(path: Path, names: Sequence[str]) -> list[bytes]:
    """The keys of some classes, out of a file that is made with mode 600 where there is none.

    Raises:
        ConfigError: others may read the file, it is not one of ours, or it lacks a class.
        StorageError: it cannot be read or written.
    """
    if not path.exists():
        made = fresh_keys(names)
        _make(path, dict(zip(names, made, strict=True)))
        return made
    known = read_keys(path)
    lacking = [name for name in names if name not in known]
    if lacking:
        raise ConfigError(
            f"--init_key {path} has no key of {lacking[0]!r} (an erasure removes it); name another file, which is made "
            "with a key for each class"
        )
    return [known[name] for name in names]


def read_keys(path: Path) -> Keys:
    """The keys in a file, by class.

    Raises:
        ConfigError: others may read it, or it is not such a file.
        StorageError: it cannot be read.
    """
    try:
        content = path.read_bytes()
        mode = path.stat().st_mode & 0o077
    except OSError as error:
        raise StorageError(f"cannot read the keys of prompt starts in {path}: {explain(error)}") from error
    is_one = content.startswith(f"{HEADING}\n".encode())
    if is_one and os.name == "posix" and mode:
        raise ConfigError(f"the keys in {path} may be read by others; take that away with chmod 600")
    keys: Keys = {}
    try:
        for line in content.decode().split("\n")[1:-1]:
            match = _LINE.fullmatch(line)
            if match:
                keys[str(json.loads(match[2]))] = bytes.fromhex(match[1])
    except ValueError:
        keys = {}
    if keys_text(keys).encode() != content:
        raise ConfigError(f"{path} is not a file of keys that pfm train --init_key made, or it was changed")
    return keys


def keys_text(keys: Mapping[str, bytes]) -> str:
    """The file of some keys."""
    lines = [f"{key.hex()} {json.dumps(name)}" for name, key in sorted(keys.items())]
    return "\n".join([HEADING, *lines, ""])


def _make(path: Path, keys: Mapping[str, bytes]) -> None:
    """Make the file, readable by its owner alone from its first byte on, whole or not at all."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened, temporary = unfinished(path)  # of mode 600
        with opened as file:
            file.write(keys_text(keys).encode())
            file.flush()
            os.fsync(file.fileno())
            os.link(temporary, path)  # fails where another run made it meanwhile
    except OSError as error:
        raise StorageError(f"cannot write the keys of prompt starts to {path}: {explain(error)}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
