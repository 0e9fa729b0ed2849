"""What a bundle's manifest says, with types; and its own hash, so that no edit of it goes unseen."""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pfm.classes import ClassList
from pfm.errors import BundleError, PfmError, explain
from pfm.storage import LARGEST_JSON, Json, finite, parse_json, sha256_bytes, write_json
from pfm_export.serving import fields
from pfm_export.serving.bank import BANK
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
            KeyError, TypeError, ValueError, PfmError: a value is missing, of another type, or out of all bounds.
        """
        classes = fields.pairs(document["classes"])
        stated = cls(
            document=document,
            classes=ClassList(tuple(number for number, _ in classes), tuple(name for _, name in classes)),
            erased=fields.pairs(document["erased"]),
            readout=fields.text(document["readout"]),
            signatures=_signatures(document),
            unknown_score=_unknown_score(document),
            unknown_below=fields.real(document.get("unknown_below", 0.0)),
            prompt_tokens=fields.size(document["prompt_tokens"], least=0),
            hidden_size=fields.size(document["hidden_size"]),
            precision=fields.text(fields.mapping(document.get("form", {})).get("precision", "fp32")),
            profiles={
                name: fields.many(left_out, fields.number)
                for name, left_out in fields.mapping(document.get("profiles", {})).items()
            },
            files={fields.file_name(name): _stored(entry) for name, entry in fields.mapping(document["files"]).items()},
            ledger_head=fields.digest(document["ledger_head"]),
        )
        missing = {BANK, *stated.signatures.files} - set(stated.files)
        if missing:
            raise ValueError(f"files has no {min(missing)}")
        fields.text(fields.mapping(document["input"]).get("kind") or document["input"]["name"])
        fields.mapping(document["preprocess"])
        return stated

    @property
    def is_row_by_row(self) -> bool:
        """Whether an answer is the same whatever else is in its batch, up to rounding.

        Dynamic int8 scales the activations of a whole batch by their largest: an answer moves with its neighbours.
        """
        return self.precision != "int8"

    def input_kind(self) -> InputKind:
        """What the graphs take for what is classified.

        Raises:
            BundleError: what it says of the preprocessing cannot be meant.
            ConfigError: a kind that nothing installed here has registered.
        """
        stated = self.document["input"]
        kind = INPUT_KINDS.get(stated["kind"]) if "kind" in stated else kind_that_takes(stated["name"])
        try:
            return kind(self.document["preprocess"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BundleError(f"the manifest's preprocess is damaged ({type(error).__name__}: {error})") from error


def _signatures(document: dict[str, Any]) -> Signatures:
    if "graphs" in document:
        return Signatures(
            {
                fields.file_name(name): Signature(
                    fields.many(ends["inputs"], fields.text), fields.many(ends["outputs"], fields.text)
                )
                for name, ends in fields.mapping(document["graphs"]).items()
            }
        )
    rows, output = fields.one_of(document["readout"], _FIRST_READOUTS)
    return Signatures({MODEL: Signature((document["input"]["name"], INPUT_PROMPTS, *rows), (output,))})


def _unknown_score(document: dict[str, Any]) -> float | None:
    if "unknown_score" in document:
        score = document["unknown_score"]
        return None if score is None else fields.real(score)
    return _FIRST_UNKNOWN.get(fields.text(document["wrong_target"]))


def _stored(entry: Any) -> StoredFile:
    return StoredFile(fields.digest(entry["sha256"]), fields.number(entry["size_bytes"]))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle.

    Raises:
        BundleError: it is missing, was changed, or is of another version.
    """
    path = folder / MANIFEST
    try:
        document = parse_json(read_file(path, LARGEST_JSON))
    except ValueError as error:
        raise BundleError(f"{path} is damaged ({error})") from error
    if not _is_manifest(document):
        raise BundleError(f"{path} is not the manifest of a bundle")
    if document.get("version") != VERSION:
        stated = str(document.get("version"))[:40]
        raise BundleError(f"{folder} is a bundle of format {stated}; this pfm reads {VERSION}")
    stated = document.pop(OWN_HASH, None)
    if stated != _hash(document):
        raise BundleError(f"{path} was changed; restore it or export again")
    try:
        return Manifest.of(document)
    except (KeyError, TypeError, AttributeError, ValueError, PfmError) as error:
        raise BundleError(f"{path} is damaged ({type(error).__name__}: {str(error)[:200]})") from error


def is_bundle(folder: Path) -> bool:
    """Whether there is a manifest of a bundle, whole or not."""
    try:
        return _is_manifest(parse_json(read_file(folder / MANIFEST, LARGEST_JSON)))
    except (BundleError, ValueError):
        return False


def no_bundle_at(folder: Path) -> BundleError:
    """What to raise where a bundle was named and none is."""
    return BundleError(f"there is no bundle at {folder}; `pfm export onnx` writes one")


def write_manifest(folder: Path, document: Json) -> None:
    """Write a manifest with its own hash in it."""
    rest = {key: value for key, value in document.items() if key != OWN_HASH}
    write_json(folder / MANIFEST, {**rest, OWN_HASH: _hash(rest)})


def read_file(path: Path, largest: int | None = None) -> bytes:
    """A file of a bundle.

    Args:
        largest: bytes that it may have, where that is known.

    Raises:
        BundleError: it is missing, cannot be read, is larger, or is not a file (a pipe would never end).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not an ordinary file")
        if largest is not None and status.st_size > largest:
            raise BundleError(f"{path} has {status.st_size} bytes, and {largest} at most are expected")
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleError(f"{path.parent} is not a complete bundle: {path.name} is missing") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {explain(error)}") from error


def _is_manifest(document: Any) -> bool:
    return isinstance(document, dict) and cast("Json", document).get("format") == FORMAT


def _hash(content: Json) -> str:
    """SHA-256 over canonical JSON, a number that is not one written as null, as on disk."""
    return sha256_bytes(json.dumps(finite(content), sort_keys=True, separators=(",", ":")).encode())
