"""Ed25519 keys (RFC 8032) that certificates are signed with: PEM files that only their owner reads."""

import hmac
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pfm.errors import ConfigError, StorageError, explain
from pfm.storage import write_whole


def load_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The private key in a PEM file, made with mode 600 where there is none; and whether it was made.

    Raises:
        ConfigError: the file is not an unencrypted Ed25519 key, or others may read it.
        StorageError: it cannot be read or written.
    """
    is_new = not path.exists()
    try:
        if is_new:
            made = Ed25519PrivateKey.generate().private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_whole(descriptor, made)
                os.fsync(descriptor)
            except OSError:
                path.unlink()  # or half a key would be there, which nobody can sign with
                raise
            finally:
                os.close(descriptor)
        content = path.read_bytes()
        mode = path.stat().st_mode & 0o077
    except OSError as error:
        raise StorageError(f"cannot use the key file {path}: {explain(error)}") from error
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"--key {path} is not an unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"--key {path} is not an Ed25519 key; name a file that is not there yet, and one is made")
    if os.name == "posix" and mode:
        raise ConfigError(f"--key {path} may be read by others; take that away with chmod 600, or make a new key")
    return key, is_new


def secret_of(key: Ed25519PrivateKey) -> bytes:
    """What keys of the entries of certificates follow from; whoever has it can open all of them."""
    return hmac.digest(key.private_bytes_raw(), b"pfm certificate subjects", "sha256")


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key, 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()
