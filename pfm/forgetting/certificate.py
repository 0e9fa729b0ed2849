"""A signed statement of what was erased, which can be checked anywhere: its format, its writing and its reading.

A certificate is one line of canonical JSON, signed with Ed25519 (RFC 8032). For each artifact it states digests of
what was left in it (see `pfm.forgetting.content`), the ledger's lines that say what was done, as they stand there,
and the ledger's length and last hash, so that lines removed at its end are noticed. What it does not prove is part
of what is signed. `pfm.forgetting.verify` compares it with artifacts.

The envelope is one function, `_opened`: another one, such as DSSE around an in-toto statement, would be a second
one that returns the same body.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pfm import __version__
from pfm.errors import CertificateError, ConfigError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.content import Content, SignedContent
from pfm.forgetting.keys import public_hex
from pfm.forgetting.ledger import LEDGER, Change, Erasure, Record, canonical, digest, number, pairs, text
from pfm.forgetting.subjects import Subject
from pfm.storage import parse_json, read_ordinary, sha256_bytes, write_bytes

FORMAT = "pfm-certificate"
VERSION = 2
WITH_SAMPLES = 3  # of certificates that speak of groups or samples, which no older version understands
READ_VERSIONS = (1, VERSION, WITH_SAMPLES)  # the first names files by their bytes alone
PROVEN = (
    "whoever holds the private key made this statement, and not a byte of it was changed since",
    "the ledger's lines that are quoted are those of the time of signing",
    "an artifact that verifies was opened and holds none of the classes that are said to be erased from it, neither by "
    "number nor by name: not in its list of classes, not as a row or a moment that no class of the list has; the "
    "prompts of its other classes and what belongs to no class are, value for value, those of the time of signing",
    "what the erasure searched when it wrote the file is what its quoted line says of it, and no more",
)
PROVEN_EXACT = (
    "an artifact that is said to be exact and verifies has weights that were solved again, when it was looked into, "
    "from what is kept in it, and what is kept has the digest stated: that of a fit without what was erased",
)
NOT_PROVEN_SHARED = (
    "that the shared weights hold nothing of the erased classes: they were trained with their samples; `pfm audit` "
    "measures what an attacker gets out of them, beside models that never saw the classes",
)
NOT_PROVEN_EXACT = (
    "that what is kept is what the other samples' files give: who has those can fit again and compare digests, as "
    "`pfm audit` does",
    "anything of the backbone's pretraining, which exactness does not cover",
)
NOT_PROVEN = (
    "that what was erased under a name was what you know by that name: the file as it was before is named by its "
    "SHA-256 alone",
    "that no copy exists elsewhere: backups, snapshots, exports, other hosts, the disk's own blocks",
    "that the training data of the classes was deleted",
    "that the time stated is the true one, or that the key belongs to whom you think: compare the public key",
)


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A ledger's line that the certificate names: an erasure from the artifact."""

    line: int
    hash: str
    classes: tuple[tuple[int, str], ...]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a certificate says of one artifact.

    Attributes:
        file: its name when it was signed.
        sha256: of the file that holds the classes, when it was signed.
        content: digests of what was in it; None in the first version.
        files: of the first version: SHA-256 of a bundle's other files.
        head, lines: hash of the newest line of its ledger, and their number.
        first: hash of the ledger's first line; "" in the first version.
        exact: digest of a readout that was solved from what is left; "" of others.
        subjects: groups and samples that went.
        num_samples: stored samples that went with them, copies included.
    """

    file: str
    artifact_kind: str
    sha256: str
    content: SignedContent | None
    files: tuple[tuple[str, str], ...]
    head: str
    lines: int
    first: str
    spoken: tuple[Spoken, ...]
    exact: str = ""
    subjects: tuple[Subject, ...] = ()
    num_samples: int = 0

    @property
    def classes(self) -> tuple[tuple[int, str], ...]:
        """Number and name of what was erased."""
        return tuple(dict.fromkeys(entry for spoken in self.spoken for entry in spoken.classes))


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate whose signature holds.

    Attributes:
        document: all of it, as read.
        public_key: which key it was signed with, 64 hexadecimal digits; whose that is, it cannot say.
    """

    document: Record
    version: int
    time: str
    public_key: str
    artifacts: tuple[Entry, ...]
    not_proven: tuple[str, ...]


# --- writing --------------------------------------------------------------------------------------


def describe_artifact(path: Path, content: Content, names: Sequence[str], numbers: Sequence[int]) -> Record | None:
    """What a certificate says of one artifact; None where its ledger says nothing of the erasure.

    Args:
        content: what is in it, as it was found on opening it.
        names, numbers: of the erased classes, either of which finds a record.

    Raises:
        StorageError: its ledger is broken, or speaks of other bytes; or a class is there all the same.
    """
    found = _Changes.of(path, content)
    spoken = [pair for pair in found.changes if any(_is_meant(c, names, numbers) for c in pair[0].classes)]
    return _described(path, content, found, spoken) if spoken else None


def describe_samples(path: Path, content: Content, removal: Record, subjects: Sequence[Record]) -> Record:
    """The same of an artifact that groups or samples were taken out of.

    Args:
        removal: the ledger's line that says so.
        subjects: who went, see `pfm.forgetting.subjects`.
    """
    found = _Changes.of(path, content)
    spoken = [pair for pair in found.changes if pair[0].hash == removal["hash"]]
    assert spoken, "the line was written right before"
    described = _described(path, content, found, spoken)
    return {**described, "subjects": list(subjects), "samples": removal["rows"]}


@dataclass(frozen=True)
class _Changes:
    """The ledger beside an artifact, and those of its lines that speak of it."""

    records: list[Record]
    changes: list[tuple[Erasure, Change]]

    @classmethod
    def of(cls, path: Path, content: Content) -> "_Changes":
        """
        Raises:
            StorageError: the ledger is broken.
        """
        place = ledger_of(path)
        records = ledger.read(place)
        stored = "bank.safetensors" if content.artifact_kind == "bundle" else path.resolve().name
        lines = ledger.erasures(records, place, with_samples=True)
        return cls(records, [(line, change) for line in lines for change in line.changes if change.file == stored])


def _described(path: Path, content: Content, found: _Changes, spoken: Sequence[tuple[Erasure, Change]]) -> Record:
    """See `describe_artifact`."""
    records = found.records
    if found.changes[-1][1].after != content.sha256:
        raise StorageError(
            f"{path} was changed after the last erasure that {ledger_of(path)} records; erase from it again"
        )
    gone = {entry for erasure, _ in spoken for entry in erasure.classes}
    there = [c.name for c in content.classes if any(c.number == i or c.name == name for i, name in gone)]
    if there:
        raise StorageError(f"{path} cannot be certified: holds {there[0]}; erase from it again")
    if content.problems:
        raise StorageError(
            f"{path} cannot be certified: {content.problems[0]}; put that right, and give the same command again, "
            "which then certifies what was erased"
        )
    quoted = {erasure.begun for erasure, _ in spoken} | {erasure.hash for erasure, _ in spoken}
    return {
        "file": path.resolve().name,
        "kind": content.artifact_kind,
        "sha256_before": spoken[0][1].before,
        "sha256": content.sha256,
        "content": content.to_dict(),
        **({"exact": content.exact} if content.exact else {}),
        "ledger": {"head": ledger.head(records), "lines": len(records), "first": records[0]["hash"]},
        "records": [
            {"line": e.line, "hash": e.hash, "time": e.time, "classes": [{"id": i, "name": n} for i, n in e.classes]}
            for e, _ in spoken
        ],
        "quoted": [record for record in records if record["hash"] in quoted],
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
    are_exact = [bool(artifact.get("exact")) for artifact in artifacts]
    proven = (*PROVEN, *(PROVEN_EXACT if any(are_exact) else ()))
    shared = () if all(are_exact) else NOT_PROVEN_SHARED
    not_proven = (*shared, *(NOT_PROVEN_EXACT if any(are_exact) else ()), *NOT_PROVEN)
    body = {
        "format": FORMAT,
        "version": WITH_SAMPLES if any("subjects" in artifact for artifact in artifacts) else VERSION,
        "pfm": __version__,
        "time": time,
        "reason": reason,
        "requested_by": requested_by,
        "artifacts": list(artifacts),
        "proven": list(proven),
        "not_proven": list(not_proven),
        "public_key": public_hex(key),
    }
    signed = {**body, "signature": key.sign(canonical(body)).hex()}
    write_bytes(path, canonical(signed) + b"\n")
    return signed


def ledger_of(path: Path) -> Path:
    """Where the ledger of an artifact is, if there is one."""
    place = path.resolve()
    return (place if place.is_dir() else place.parent) / LEDGER


def _is_meant(entry: tuple[int, str], names: Sequence[str], numbers: Sequence[int]) -> bool:
    """Whether a class in a record is one of those named, to the letter."""
    return entry[1] in names or entry[0] in numbers


# --- reading --------------------------------------------------------------------------------------


def read_certificate(path: Path, public_key: str = "") -> Certificate:
    """A certificate whose signature holds.

    Args:
        public_key: the key it has to be signed with, 64 hexadecimal digits; "" takes the one it names, which
            says nothing of who signed it.

    Raises:
        CertificateError: it is not one, was changed, or was signed with another key.
        ConfigError: what was given is not a key.
        StorageError: it cannot be read.
    """
    signed = _opened(path, read_ordinary(path))
    if signed.get("version") not in READ_VERSIONS or isinstance(signed["version"], bool):
        stated = str(signed.get("version"))[:40]
        raise CertificateError(f"{path} is a certificate of version {stated}; this pfm reads 1 and {VERSION}")
    wanted = public_key.strip().lower()
    if public_key and not re.fullmatch("[0-9a-f]{64}", wanted):
        raise ConfigError(f"--public_key {public_key[:80]!r} is not 64 hexadecimal digits, as `pfm forget` prints it")
    if wanted and wanted != signed["public_key"]:
        raise CertificateError(
            f"{path} was signed with the key {signed['public_key']}, not with the one given; somebody else made it"
        )
    try:
        return Certificate(
            document=signed,
            version=signed["version"],
            time=text(signed["time"]),
            public_key=signed["public_key"],
            artifacts=tuple(_entry(values, signed["version"]) for values in _list(signed["artifacts"])),
            not_proven=tuple(text(remark) for remark in _list(signed["not_proven"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CertificateError(
            f"{path} is signed, and does not say what a certificate has to ({type(error).__name__}: {error})"
        ) from error


def _opened(path: Path, content: bytes) -> Record:
    """The body of a certificate, once its signature was found to hold."""
    try:
        signed = parse_json(content)
        body = {name: value for name, value in signed.items() if name != "signature"}
        # one spelling only, of the whole and of the signature, so that no other bytes pass
        is_whole = content == canonical(signed) + b"\n"
        signature, named = bytes.fromhex(signed["signature"]), bytes.fromhex(signed["public_key"])
        is_whole = is_whole and signature.hex() == signed["signature"] and named.hex() == signed["public_key"]
        if not is_whole or signed["format"] != FORMAT:
            raise ValueError
        Ed25519PublicKey.from_public_bytes(named).verify(signature, canonical(body))
    except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as error:
        raise CertificateError(
            f"{path}: the certificate was changed, or is not one; its signature does not hold"
        ) from error
    return signed


def _entry(values: Record, version: int) -> Entry:
    spoken = tuple(
        Spoken(line=number(line["line"]), hash=digest(line["hash"]), classes=pairs(line["classes"]))
        for line in _list(values["records"])
    )
    lines = number(values["ledger"]["lines"])
    subjects = tuple(map(Subject.of, _list(values.get("subjects", [])))) if version == WITH_SAMPLES else ()
    if not spoken or any(not 1 <= entry.line <= lines or not (entry.classes or subjects) for entry in spoken):
        raise ValueError("an artifact without an erasure")
    if version == WITH_SAMPLES and not subjects:
        raise ValueError("a certificate of samples that speaks of none")
    is_first = version == 1
    if not is_first:
        _check_quoted(values["quoted"], spoken)
    return Entry(
        file=text(values["file"]),
        artifact_kind=text(values["kind"]),
        sha256=digest(values["sha256"]),
        content=None if is_first else SignedContent.of(values["content"]),
        files=tuple((text(name), digest(sha)) for name, sha in values.get("files", {}).items()),
        head=digest(values["ledger"]["head"]),
        lines=lines,
        first="" if is_first else digest(values["ledger"]["first"]),
        spoken=spoken,
        exact="" if is_first else digest(values.get("exact", "")),
        subjects=subjects,
        num_samples=number(values["samples"]) if subjects else 0,
    )


def _check_quoted(quoted: Any, spoken: Sequence[Spoken]) -> None:
    """The lines that are quoted must be those that are named, and say the same.

    Raises:
        KeyError, TypeError, ValueError: they are not.
    """
    by_hash: dict[str, Record] = {}
    for record in _list(quoted):
        body = {key: value for key, value in record.items() if key != "hash"}
        if sha256_bytes(canonical(body)) != record["hash"]:
            raise ValueError("a quoted line was changed")
        by_hash[record["hash"]] = record
    for entry in spoken:
        record = by_hash[entry.hash]
        is_erasure = record["action"] in (ledger.ERASE, ledger.ERASE_SAMPLES)
        if not is_erasure or pairs(record["classes"]) != entry.classes:
            raise ValueError("a quoted line says something else")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("a list is expected")
    return cast("list[Any]", value)
