"""What samples belong together beside their class: a patient, a site, a speaker, a device.

A group is never divided when samples are held out. Where a name is nobody's business it is stored as a keyed hash: who
has the key file can still say which group a name is, and nobody else can.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from pfm.data.file_names import PREFIX, NamePattern
from pfm.errors import DataError, explain
from pfm.storage import check_file, write_bytes

FOLDER, DICOM = "folder", "dicom"  # words that `--group` takes instead of the name of a column
FIELD = "group"  # of a pattern, the field that is the group
_KEY_BYTES = 32


def group_pattern(group: str) -> NamePattern | None:
    """How groups are read off file names, if they are.

    Raises:
        ConfigError: a pattern without a field of that name.
    """
    return NamePattern(group.removeprefix(PREFIX), FIELD, "--group") if group.startswith(PREFIX) else None


def check_key(path: Path) -> None:
    """Refuse a file that `read_key` could neither read nor make; none is made.

    Raises:
        DataError, StorageError: why.
    """
    if path.exists():
        read_key(path)
    else:
        check_file(path)


def read_key(path: Path) -> bytes:
    """The key of the file, which is made where there is none, for its owner only.

    Raises:
        DataError: it cannot be read or made, or is empty.
    """
    try:
        if not path.exists():
            write_bytes(path, secrets.token_hex(_KEY_BYTES).encode(), is_private=True)
        key = path.read_bytes().strip()
    except OSError as error:
        raise DataError(f"cannot read {path} of --hash_groups: {explain(error)}") from error
    if not key:
        raise DataError(f"{path} of --hash_groups is empty; delete it, and a key is made")
    return key


def hashed_group(group: str, key: bytes) -> str:
    """A group's name as it is stored: the first 128 bits of its HMAC-SHA-256, in hexadecimal."""
    return hmac.new(key, group.encode(), hashlib.sha256).hexdigest()[:32]


def shared_note(first: str, second: str, groups: Sequence[str], others: Sequence[str]) -> str:
    """What to say of two splits with groups in both; "" where there are none.

    Args:
        first, second: names of the splits.
        groups, others: of the samples of each.
    """
    both = set(groups) & set(others)
    if not both:
        return ""
    count = sum(group in both for group in others)
    return (
        f"warning: {len(both):,} of {len(set(others)):,} groups in {second} are in {first} as well, with {count:,} of "
        f"its {len(others):,} samples; what is measured there is not what new groups will get"
    )
