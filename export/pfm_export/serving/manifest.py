"""What a bundle's manifest says, with types; and its own hash, so that no edit of it goes unseen."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pfm.classes import ClassList
from pfm.errors import BundleError
from pfm.storage import Json, explain, finite, sha256_bytes, write_json
from pfm_export.serving.kinds import INPUT_KINDS, InputKind, kind_that_takes
from pfm_export.serving.signature import (
    INPUT_BIAS,
    INPUT_PROMPTS,
    INPUT_WEIGHT,
    LOGITS,
    MODEL,
    SCORES,
    Signature,
    Signatures,
)

FORMAT = "pfm-bundle"
VERSION = 1
MANIFEST = "manifest.json"
OWN_HASH = "manifest_sha256"
# of bundles that do not state them: what the graph takes beside the prompts, and what comes out
_FIRST_READOUTS = {"cls": ((INPUT_WEIGHT, INPUT_BIAS), LOGITS), "prompt": ((), SCORES)}
_FIRST_UNKNOWN = {"none": 0.0}  # the same: the score of `unknown`, by the target of the branch without the own prompt


@dataclass(frozen=True)
class StoredFile:
    """A file of a bundle as the manifest states it."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What serving and erasing go by.

    Attributes:
        document: all of it, as read.
        classes: those that the bank holds.
        erased: number and name of those that were erased.
        readout: name of the training's readout, for people and for comparing.
        signatures: names of the graphs' inputs and outputs.
        unknown_score: fixed score of the answer `unknown`, beside the classes' own; None where there is no such answer.
        unknown_below: largest probability under which the answer is `unknown`; 0 where there is no such threshold.
        prompt_tokens: m, tokens per prompt.
        hidden_size: D.
        precision: of the graphs' weights.
        profiles: ids of the classes that each profile leaves out.
        files: all but the manifest and the ledger.
        ledger_head: hash of the ledger's newest record when this was written.
    """

    document: dict[str, Any]
    classes: ClassList
    erased: tuple[tuple[int, str], ...]
    readout: str
    signatures: Signatures
    unknown_score: float | None
    unknown_below: float
    prompt_tokens: int
    hidden_size: int
    precision: str
    profiles: Mapping[str, tuple[int, ...]]
    files: Mapping[str, StoredFile]
    ledger_head: str

    @classmethod
    def of(cls, document: dict[str, Any]) -> "Manifest":
        """From the JSON, its own hash taken out.

        Raises:
            KeyError, TypeError, AttributeError: a value is missing or of another type.
        """
        entries = document["classes"]
        return cls(
            document=document,
            classes=ClassList(tuple(entry["id"] for entry in entries), tuple(entry["name"] for entry in entries)),
            erased=tuple((entry["id"], entry["name"]) for entry in document["erased"]),
            readout=document["readout"],
            signatures=_signatures(document),
            unknown_score=_unknown_score(document),
            unknown_below=document.get("unknown_below", 0.0),
            prompt_tokens=document["prompt_tokens"],
            hidden_size=document["hidden_size"],
            precision=document.get("form", {}).get("precision", "fp32"),
            profiles={name: tuple(left_out) for name, left_out in document.get("profiles", {}).items()},
            files={name: StoredFile(e["sha256"], e["size_bytes"]) for name, e in document["files"].items()},
            ledger_head=document["ledger_head"],
        )

    def input_kind(self) -> InputKind:
        """What the graphs take for what is classified.

        Raises:
            ConfigError: a kind that nothing installed here has registered.
        """
        stated = self.document["input"]
        kind = INPUT_KINDS.get(stated["kind"]) if "kind" in stated else kind_that_takes(stated["name"])
        return kind(self.document["preprocess"])


def _signatures(document: dict[str, Any]) -> Signatures:
    if "graphs" in document:
        return Signatures(
            {
                name: Signature(tuple(ends["inputs"]), tuple(ends["outputs"]))
                for name, ends in document["graphs"].items()
            }
        )
    rows, output = _FIRST_READOUTS[document["readout"]]
    return Signatures({MODEL: Signature((document["input"]["name"], INPUT_PROMPTS, *rows), (output,))})


def _unknown_score(document: dict[str, Any]) -> float | None:
    if "unknown_score" in document:
        return document["unknown_score"]
    return _FIRST_UNKNOWN.get(document["wrong_target"])


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        BundleError: it is missing, was changed, or is of another version.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(read_file(path))
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error})") from error
    if not _is_manifest(document):
        raise BundleError(f"{path} is not the manifest of a bundle")
    if document.get("version") != VERSION:
        raise BundleError(f"{folder} is a bundle of format {document.get('version')}; this pfm reads {VERSION}")
    stated = document.pop(OWN_HASH, None)
    if stated != _hash(document):
        raise BundleError(f"{path} was changed; restore it or export again")
    try:
        return Manifest.of(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {error})") from error


def is_bundle(folder: Path) -> bool:
    """Whether there is a manifest of a bundle, whole or not."""
    try:
        return _is_manifest(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError):
        return False


def write_manifest(folder: Path, document: Json) -> None:
    """Write a manifest with its own hash in it."""
    rest = {key: value for key, value in document.items() if key != OWN_HASH}
    write_json(folder / MANIFEST, {**rest, OWN_HASH: _hash(rest)})


def read_file(path: Path) -> bytes:
    """A file of a bundle.

    Raises:
        BundleError: it is missing or cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path.parent} is not a complete bundle: {path.name} is missing") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {explain(error)}") from error


def _is_manifest(document: Any) -> bool:
    return isinstance(document, dict) and cast("Json", document).get("format") == FORMAT


def _hash(content: Json) -> str:
    """SHA-256 over canonical JSON, a number that is not one written as null, as on disk."""
    return sha256_bytes(json.dumps(finite(content), sort_keys=True, separators=(",", ":")).encode())
