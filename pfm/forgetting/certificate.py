"""A signed statement of what was erased, and its verification anywhere: no torch, no model.

A certificate is one line of canonical JSON, signed with Ed25519 (RFC 8032). It names each artifact by its
SHA-256, the lines of the ledger that say what was done to it, and the ledger's length and last hash, so
that lines removed at its end are noticed. What it does not prove is part of what is signed.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pfm import __version__
from pfm.errors import CertificateError, ConfigError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER, Record, canonical
from pfm.storage import explain, sha256, sha256_bytes, write_bytes

FORMAT = "pfm-certificate"
VERSION = 1
PROVEN = (
    "whoever holds the private key made this statement, and not a byte of it was changed since",
    "the ledger's lines up to the one named are those of the time of signing",
    "each artifact that verifies is, byte for byte, the file that the erasure wrote; when it was written, the erased "
    "tensors were searched for in its bytes (float32, float16, bfloat16) and not found",
)
NOT_PROVEN = (
    "that the shared weights hold nothing of the erased classes: they were trained with their samples; `pfm audit` "
    "measures what an attacker gets out of them",
    "that no copy exists elsewhere: backups, snapshots, exports, other hosts, the disk's own blocks",
    "that the training data of the classes was deleted",
    "that the time stated is the true one, or that the key belongs to whom you think: compare the public key",
)


@dataclass(frozen=True)
class Check:
    """One link of the proof: what was checked, and what is wrong with it ("" where it holds)."""

    name: str
    problem: str = ""


# --- keys -----------------------------------------------------------------------------------------


def load_key(path: Path) -> tuple[Ed25519PrivateKey, bool]:
    """The private key in a PEM file, made with mode 600 where there is none; and whether it was made.

    Raises:
        ConfigError: the file is no unencrypted Ed25519 key, or others may read it.
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
            with os.fdopen(descriptor, "wb") as file:
                file.write(made)
                file.flush()
                os.fsync(file.fileno())
        content = path.read_bytes()
        mode = path.stat().st_mode & 0o077
    except OSError as error:
        raise StorageError(f"cannot use the key file {path}: {explain(error)}") from error
    if os.name == "posix" and mode:
        raise ConfigError(f"--key {path} may be read by others; take that away with chmod 600, or make a new key")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"--key {path} is no unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"--key {path} is no Ed25519 key; name a file that is not there yet, and one is made")
    return key, is_new


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key, 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


# --- writing --------------------------------------------------------------------------------------


def describe_artifact(path: Path, names: Sequence[str], numbers: Sequence[int]) -> Record | None:
    """What a certificate says of one artifact, read off its bytes and its ledger; None where that says nothing of it.

    Args:
        names, numbers: of the erased classes, either of which finds a record.

    Raises:
        StorageError: its ledger is broken, or speaks of other bytes.
    """
    place = _ledger_of(path)
    records = ledger.read(place)
    lines = [
        (line, record, entry)
        for line, record in enumerate(records, start=1)
        for entry in _entries(record)
        if entry["file"] == _name_in_ledger(path)
    ]
    spoken = [
        {"line": line, "hash": record["hash"], "time": record["time"], "classes": record["classes"]}
        for line, record, _ in lines
        if any(_is_meant(item, names, numbers) for item in record["classes"])
    ]
    if not spoken:
        return None
    now = _hashes(path)
    if lines[-1][2]["sha256_after"] != now["sha256"]:
        raise StorageError(f"{path} was changed after the last erasure that {place} records; erase from it again")
    first = next(entry for line, _, entry in lines if line == spoken[0]["line"])
    return {
        "file": path.resolve().name,
        "kind": "bundle" if path.is_dir() else "checkpoint",
        "sha256_before": first["sha256_before"],
        **now,
        "ledger": {"head": ledger.head(records), "lines": len(records)},
        "records": spoken,
    }


def write_certificate(
    path: Path,
    key: Ed25519PrivateKey,
    artifacts: Sequence[Record],
    *,
    reason: str,
    requested_by: str,
    time: str,
) -> Record:
    """Sign what `describe_artifact` found and write it as one line of canonical JSON."""
    body = {
        "format": FORMAT,
        "version": VERSION,
        "pfm": __version__,
        "time": time,
        "reason": reason,
        "requested_by": requested_by,
        "artifacts": list(artifacts),
        "proven": list(PROVEN),
        "not_proven": list(NOT_PROVEN),
        "public_key": public_hex(key),
    }
    signed = {**body, "signature": key.sign(canonical(body)).hex()}
    write_bytes(path, canonical(signed) + b"\n")
    return signed


# --- reading --------------------------------------------------------------------------------------


def read_certificate(path: Path, public_key: str = "") -> Record:
    """A certificate whose signature holds.

    Args:
        public_key: the key it has to be signed with, 64 hexadecimal digits; "" takes the one it names.

    Raises:
        CertificateError: it is none, was changed, or was signed with another key.
        StorageError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error
    try:
        signed = json.loads(content)
        body = {name: value for name, value in signed.items() if name != "signature"}
        # one spelling only, of the whole and of the signature, so that no other bytes pass
        is_whole = content == canonical(signed) + b"\n"
        signature, named = bytes.fromhex(signed["signature"]), bytes.fromhex(signed["public_key"])
        is_whole = is_whole and signature.hex() == signed["signature"] and named.hex() == signed["public_key"]
        if not is_whole or signed["format"] != FORMAT:
            raise ValueError
        Ed25519PublicKey.from_public_bytes(named).verify(signature, canonical(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidSignature) as error:
        raise CertificateError(
            f"{path}: the certificate was changed, or is none; its signature does not hold"
        ) from error
    if signed["version"] != VERSION:
        raise CertificateError(f"{path} is a certificate of version {signed['version']}; this pfm reads {VERSION}")
    if public_key and public_key.strip().lower() != signed["public_key"]:
        raise CertificateError(
            f"{path} was signed with the key {signed['public_key']}, not with the one given; somebody else made it"
        )
    return signed


def verify(certificate: Record, paths: Sequence[Path]) -> list[Check]:
    """Check artifacts, and the ledgers beside them, against a certificate whose signature holds.

    Returns:
        one check for each artifact and one for its ledger, in the order given.
    """
    checks = []
    for path in paths:
        entries = [entry for entry in certificate["artifacts"] if entry["file"] == path.resolve().name]
        if not entries:
            known = ", ".join(entry["file"] for entry in certificate["artifacts"])
            checks.append(Check(str(path), f"the certificate says nothing of it (it names {known})"))
            continue
        attempts = [[_check_artifact(path, entry), _check_ledger(path, entry)] for entry in entries]
        # of two artifacts of the same name in different folders, the one that fits better
        checks += min(attempts, key=lambda pair: sum(bool(check.problem) for check in pair))
    return checks


def _check_artifact(path: Path, entry: Record) -> Check:
    try:
        now = _hashes(path)
    except StorageError as error:
        return Check(str(path), str(error))
    if "files" in entry:
        before, after = entry["files"], now.get("files", {})
        for name in sorted({*before, *after}):
            if before.get(name) != after.get(name):
                what = "is missing" if name not in after else "was changed" if name in before else "was added"
                return Check(f"{path / name}", f"the file {what} since the certificate was made")
    if now["sha256"] != entry["sha256"]:
        return Check(str(path), "the file was changed since the certificate was made")
    return Check(str(path))


def _check_ledger(path: Path, entry: Record) -> Check:
    place = _ledger_of(path)
    if not place.exists():
        return Check(str(place), "there is no ledger beside the artifact; bring it along")
    try:
        records = ledger.read(place)
    except StorageError as error:
        return Check(str(place), str(error))
    lines, head = entry["ledger"]["lines"], entry["ledger"]["head"]
    if len(records) < lines:
        return Check(
            str(place), f"lines were removed at its end: {lines} when the certificate was made, {len(records)} now"
        )
    if records[lines - 1]["hash"] != head:
        return Check(str(place), f"line {lines} is not the one the certificate names; it is another ledger")
    for spoken in entry["records"]:
        if records[spoken["line"] - 1]["hash"] != spoken["hash"]:
            return Check(str(place), f"line {spoken['line']} is not the erasure that the certificate names")
    return Check(str(place))


def _is_meant(item: Record, names: Sequence[str], numbers: Sequence[int]) -> bool:
    """Whether a class in a record is one of those named; a name with commas may come in pieces."""
    pieces = {piece.strip() for piece in item["name"].split(",")}
    return item["name"] in names or item["id"] in numbers or pieces <= set(names)


def _ledger_of(path: Path) -> Path:
    place = path.resolve()
    return (place if place.is_dir() else place.parent) / LEDGER


def _name_in_ledger(path: Path) -> str:
    return "bank.safetensors" if path.is_dir() else path.resolve().name


def _entries(record: Record) -> list[Record]:
    """What a record says of single files; a bundle's speaks of one, its bank."""
    if record.get("action") != "erase":
        return []
    return [entry for entry in record.get("files", [record]) if "sha256_after" in entry]


def _hashes(path: Path) -> Record:
    """SHA-256 of a file; of a bundle, that of its bank, and of every other file but the ledger.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        if not path.is_dir():
            return {"sha256": sha256(path)}
        files = {
            file.relative_to(path).as_posix(): sha256(file)
            for file in sorted(path.rglob("*"))
            if file.is_file() and file != path / LEDGER
        }
        return {"sha256": files.get("bank.safetensors", sha256_bytes(b"")), "files": files}
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain(error)}") from error
