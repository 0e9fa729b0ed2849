"""Who was forgotten, in a certificate that names nobody: keyed ids of groups and of samples.

An id is an HMAC of what was asked for, with a key of its own. The key follows from the signer's private key and a salt
that stands beside the id. So a certificate can go anywhere, guessing names against it is of no use, and the signer can
always open one entry: whoever gets its key and knows the name, or has the file, finds the same id.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pfm.errors import ConfigError
from pfm.forgetting.ledger import Record, digest, text
from pfm.storage import sha256

GROUP, SAMPLE = "group", "sample"
SALT_BYTES = 16


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One group or sample that a certificate speaks of.

    Attributes:
        what: "group" or "sample".
        salt: of its key.
        id: of its name, or of a sample's file.
        name_id: of a sample's name as well, where that named a file; "" otherwise.
    """

    what: str
    salt: str
    id: str
    name_id: str = ""

    @classmethod
    def of(cls, values: Record) -> "Subject":
        """
        Raises:
            KeyError, TypeError, ValueError: something is missing or of another type.
        """
        name_id = digest(values.get("name_id", ""))
        return cls(what=text(values["what"]), salt=text(values["salt"]), id=digest(values["id"]), name_id=name_id)

    def is_meant(self, what: str, given: str, key: bytes) -> bool:
        """Whether it is this group or sample."""
        known = [known for known in (self.id, self.name_id) if known]
        return what == self.what and any(hmac.compare_digest(a, b) for a in known for b in _ids(what, given, key))


def spoken_of(pairs: Iterable[tuple[str, str]], secret: bytes) -> list[Record]:
    """Entries of a certificate, one for each group and sample.

    Args:
        pairs: kind and name of each.
        secret: the signer's.
    """
    found: list[Record] = []
    for what, given in pairs:
        salt = secrets.token_hex(SALT_BYTES)
        own, *name = _ids(what, given, subject_key(secret, salt))
        found.append({"what": what, "salt": salt, "id": own, **({"name_id": name[0]} if name else {})})
    return found


def subject_key(secret: bytes, salt: str) -> bytes:
    """The key of the entry that has this salt.

    Args:
        secret: the signer's, see `pfm.forgetting.keys.secret_of`.
    """
    return hmac.digest(secret, salt.encode(), "sha256")


def parse_key(given: str) -> bytes:
    """A key as it was printed.

    Raises:
        ConfigError: it is not 64 hexadecimal digits.
    """
    try:
        key = bytes.fromhex(given)
    except ValueError:
        key = b""
    if len(key) != hashlib.sha256().digest_size:
        raise ConfigError("--subject_key is not 64 hexadecimal digits, as `pfm forget --certificate` prints them")
    return key


def _ids(what: str, given: str, key: bytes) -> Iterator[str]:
    """What it may be called: a file by its bytes, whatever its name is now; anything by its name."""
    path = Path(given)
    if what == SAMPLE and path.is_file():
        yield hmac.new(key, f"file:{sha256(path)}".encode(), "sha256").hexdigest()
    yield hmac.new(key, f"{what}:{given}".encode(errors="surrogatepass"), "sha256").hexdigest()
