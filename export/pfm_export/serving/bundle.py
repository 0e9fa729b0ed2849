"""What an export is on disk: a graph that belongs to no class, and a small bank that holds them.

    model.onnx         the graph; prompts (and classifier rows) are its inputs (see pfm_export.serving.form for others)
    bank.safetensors   `prompt.<i>` [m, D], and with the cls readout `weight.<i>` [D], `bias.<i>` []
    manifest.json      classes, preprocessing, profiles, versions, SHA-256 of the files
    ledger.jsonl       what was erased, each line carrying the hash of the line before

Erasing a class rewrites the bank. The ledger line is written first, then the bank, then the
manifest. Whoever opens a bundle between two of these steps sees the class as erased, and the next
erasure finishes what was left.

Letters: K classes that are used, m tokens per prompt, D hidden size.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from pfm.classes import ClassList, check_removal
from pfm.errors import BundleError, ClassNameError, StorageError
from pfm.forgetting import ledger
from pfm.forgetting.ledger import LEDGER, LOCK
from pfm.storage import explain, finite, locked, sha256_bytes, write_bytes, write_json

FORMAT = "pfm-bundle"
VERSION = 1
MODEL, BANK, MANIFEST = "model.onnx", "bank.safetensors", "manifest.json"
OWN_HASH = "manifest_sha256"
DEFAULT_PROFILE = "default"

INPUT_PROMPTS, INPUT_WEIGHT, INPUT_BIAS = "prompts", "class_weight", "class_bias"
INPUT_LENS = "prompt_lens"
OUTPUT = {"cls": "logits", "prompt": "scores"}

REMAINS = (
    "the graph's shared weights were trained with samples of the erased classes too; erasing does not change them",
    "other copies of this bundle and the checkpoint it was exported from are out of reach",
)


@dataclass(frozen=True)
class Rows:
    """The bank's rows of some classes, ready to be fed: prompts [K·m, D], weight [K, D], bias [K]."""

    prompts: np.ndarray
    weight: np.ndarray | None
    bias: np.ndarray | None

    def feed(self) -> dict[str, np.ndarray]:
        inputs = {INPUT_PROMPTS: self.prompts}
        if self.weight is not None and self.bias is not None:
            inputs |= {INPUT_WEIGHT: self.weight, INPUT_BIAS: self.bias}
        return inputs


class Bundle:
    """A bundle that was read and found whole.

    Attributes:
        folder: where it lies.
        manifest: as read.
        classes: those that can be served; a class whose erasure was interrupted is not among them.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], records: list[dict[str, Any]], bank: bytes) -> None:
        self.folder = folder
        self.manifest = manifest
        self._records = records
        self._bank_sha256 = sha256_bytes(bank)
        self._tensors = _parse_bank(bank)
        self.classes = _manifest_classes(manifest)
        self.pending = self._find_pending()
        if self.pending is not None:
            gone = {entry["id"] for entry in self.pending["classes"]}
            self.classes = self.classes.without(p for p, i in enumerate(self.classes.ids) if i in gone)
        self._check_bank()

    @classmethod
    def open(cls, folder: Path | str) -> "Bundle":
        """Read a bundle; `model_bytes` checks the graph when it is loaded.

        Raises:
            BundleError: a file is missing, changed or of another version.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise BundleError(f"no bundle {folder}; `pfm export onnx` writes one")
        try:
            manifest = json.loads(_read(folder / MANIFEST))
        except ValueError as error:
            raise BundleError(f"{folder / MANIFEST} is damaged ({error})") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise BundleError(f"{folder / MANIFEST} is not the manifest of a bundle")
        if manifest.get("version") != VERSION:
            raise BundleError(f"{folder} is a bundle of format {manifest.get('version')}; this pfm reads {VERSION}")
        stated = manifest.pop(OWN_HASH, None)
        if stated != _hash(manifest):
            raise BundleError(f"{folder / MANIFEST} was changed; restore it or export again")
        try:
            records = ledger.read(folder / LEDGER)
            return cls(folder, manifest, records, _read(folder / BANK))
        except StorageError as error:
            raise BundleError(str(error)) from error
        except (KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error})") from error

    @property
    def readout(self) -> str:
        return self.manifest["readout"]

    @property
    def has_unknown(self) -> bool:
        return self.manifest["wrong_target"] == "none"

    @property
    def unknown_below(self) -> float:
        """Largest probability under which the answer is `unknown`; 0 where there is no such threshold."""
        return self.manifest.get("unknown_below", 0.0)

    @property
    def preprocess(self) -> dict[str, Any]:
        return self.manifest["preprocess"]

    @property
    def graph_hashes(self) -> dict[str, str]:
        """SHA-256 of each graph; they tell one bundle from another, whatever was erased."""
        return {name: entry["sha256"] for name, entry in self.manifest["files"].items() if name.endswith(".onnx")}

    @property
    def profiles(self) -> dict[str, list[int]]:
        """Ids of the classes that each profile leaves out."""
        return self.manifest.get("profiles", {})

    def suspended(self, profile: str | None = None) -> set[int]:
        """Positions of the classes that a profile leaves out; None is the profile "default", which may be absent.

        Raises:
            ClassNameError: no such profile.
        """
        name = DEFAULT_PROFILE if profile is None else profile
        if name not in self.profiles and profile not in (None, DEFAULT_PROFILE):
            known = ", ".join(sorted(self.profiles)) or "none"
            raise ClassNameError(f"no profile {profile!r}; the bundle's profiles: {known}")
        left_out = self.profiles.get(name, [])
        return {position for position, number in enumerate(self.classes.ids) if number in left_out}

    @property
    def input_name(self) -> str:
        return self.manifest["input"]["name"]

    def model_bytes(self, name: str = MODEL) -> bytes:
        """A graph, its hash checked on the very bytes that are returned.

        Args:
            name: the file; a bundle exported with --split has trunk.onnx and head.onnx.
        """
        if name not in self.manifest["files"]:
            graphs = ", ".join(file for file in self.manifest["files"] if file.endswith(".onnx"))
            raise BundleError(f"{self.folder} has no {name}; its graphs are {graphs}")
        content = _read(self.folder / name)
        if sha256_bytes(content) != self.manifest["files"][name]["sha256"]:
            raise BundleError(f"{self.folder / name} was changed since it was exported; export it again")
        return content

    def rows(self, positions: Sequence[int]) -> Rows:
        """The rows of the classes at `positions`, in that order."""
        width = self.manifest["hidden_size"]
        ids = [self.classes.ids[p] for p in positions]
        prompts = [self._tensors[f"prompt.{i}"] for i in ids] or [np.zeros((0, width), np.float32)]
        if self.readout != "cls":
            return Rows(np.concatenate(prompts), None, None)
        weight = np.stack([self._tensors[f"weight.{i}"] for i in ids]) if ids else np.zeros((0, width), np.float32)
        bias = np.array([self._tensors[f"bias.{i}"] for i in ids], dtype=np.float32)
        return Rows(np.concatenate(prompts), weight, bias)

    def erase(self, keys: Iterable[str | int], *, reason: str = "", requested_by: str = "") -> "Bundle":
        """Remove classes from the files, for good; returns the bundle as it is afterwards.

        Raises:
            ClassNameError: an unknown class, or no class would be left.
            StorageError: a file could not be written; run it again to finish.
        """
        names = [self.classes.names[p] for p in self.classes.positions(keys)]
        with locked(self.folder / LOCK):
            # as it is on disk now: another process may have erased a class since, or died while it did
            return Bundle.open(self.folder).finish_pending()._erase(names, reason, requested_by)

    def suspend(self, keys: Iterable[str | int], *, profile: str = "default") -> "Bundle":
        """Leave classes out of a profile's answers, which can be undone: nothing of them is removed.

        A profile is made by the first suspension in it. The profile "default" counts wherever no
        other one is named.

        Raises:
            ClassNameError: an unknown class, or no class would be left in the profile.
        """
        return self._edit_profile(keys, profile, lambda left_out, chosen: left_out | chosen)

    def restore(self, keys: Iterable[str | int], *, profile: str = "default") -> "Bundle":
        """Undo `suspend`.

        Raises:
            ClassNameError: an unknown class or profile.
        """
        self.suspended(profile)
        return self._edit_profile(keys, profile, lambda left_out, chosen: left_out - chosen)

    def _edit_profile(
        self, keys: Iterable[str | int], profile: str, edit: Callable[[set[int], set[int]], set[int]]
    ) -> "Bundle":
        keys = list(keys)
        with locked(self.folder / LOCK):
            bundle = Bundle.open(self.folder).finish_pending()
            chosen = {bundle.classes.ids[p] for p in bundle.classes.positions(keys)}
            left_out = edit(set(bundle.profiles.get(profile, [])), chosen)
            if left_out >= set(bundle.classes.ids):
                raise ClassNameError(f"no class would be left in profile {profile!r}; leave at least one active")
            profiles = {**bundle.profiles, profile: sorted(left_out)}
            write_manifest(self.folder, {**bundle.manifest, "profiles": profiles})
            return Bundle.open(self.folder)

    def _erase(self, names: Sequence[str], reason: str, requested_by: str) -> "Bundle":
        positions = self.classes.positions(names)
        check_removal(self.classes, positions)
        gone = [{"id": self.classes.ids[p], "name": self.classes.names[p]} for p in positions]
        bank = _without(self._tensors, [entry["id"] for entry in gone])
        record = ledger.seal(
            self._records,
            {
                "action": "erase",
                "classes": gone,
                "file": BANK,
                "sha256_before": self._bank_sha256,
                "sha256_after": sha256_bytes(bank),
                "remains": list(REMAINS),
                "reason": reason,
                "requested_by": requested_by,
            },
        )
        ledger.write(self.folder / LEDGER, [*self._records, record])
        return Bundle.open(self.folder).finish_pending()

    def finish_pending(self) -> "Bundle":
        """Complete an erasure that was interrupted, if there is one."""
        if self.pending is None:
            return self
        gone = self.pending["classes"]
        if self._bank_sha256 != self.pending["sha256_after"]:
            write_bytes(self.folder / BANK, _without(self._tensors, [entry["id"] for entry in gone]))
        size = (self.folder / BANK).stat().st_size
        files = {**self.manifest["files"], BANK: {"sha256": self.pending["sha256_after"], "size_bytes": size}}
        manifest = {
            **self.manifest,
            "classes": [{"id": i, "name": n} for i, n in zip(self.classes.ids, self.classes.names, strict=True)],
            "erased": [*self.manifest["erased"], *gone],
            "profiles": {
                name: [number for number in left_out if number in self.classes.ids]
                for name, left_out in self.profiles.items()
            },
            "files": files,
            "ledger_head": self.pending["hash"],
        }
        write_manifest(self.folder, manifest)
        return Bundle.open(self.folder)

    def _find_pending(self) -> dict[str, Any] | None:
        """The erasure that was begun and not finished; None where manifest, ledger and bank agree."""
        stated = self.manifest["files"][BANK]["sha256"]
        expected = self.manifest["ledger_head"]
        if ledger.head(self._records) == expected:
            if self._bank_sha256 != stated:
                raise BundleError(f"{self.folder / BANK} was changed; restore it or export again")
            return None
        last = self._records[-1] if self._records else {}
        fits = last.get("previous") == expected and last.get("sha256_before") == stated
        if not fits or self._bank_sha256 not in (stated, last.get("sha256_after")):
            raise BundleError(f"{self.folder}: manifest, ledger and bank do not belong together; export again")
        return last

    def _check_bank(self) -> None:
        width, tokens = self.manifest["hidden_size"], self.manifest["prompt_tokens"]
        shapes: dict[str, tuple[int, ...]] = {"prompt": (tokens, width)}
        if self.readout == "cls":
            shapes |= {"weight": (width,), "bias": ()}
        for number in self.classes.ids:
            for kind, shape in shapes.items():
                tensor = self._tensors.get(f"{kind}.{number}")
                if tensor is None or tensor.shape != shape or tensor.dtype != np.float32:
                    raise BundleError(f"{self.folder / BANK} has no fitting {kind}.{number}; export again")


Stamp = tuple[tuple[int, int, int], ...]


def stamp(folder: Path) -> Stamp:
    """What tells cheaply that a bundle's files are others than before.

    Raises:
        BundleError: one of them is gone.
    """
    try:
        found = [(folder / name).stat() for name in (MANIFEST, LEDGER, BANK)]
    except OSError as error:
        raise BundleError(f"{folder} is no complete bundle any more: {explain(error)}") from error
    return tuple((entry.st_ino, entry.st_mtime_ns, entry.st_size) for entry in found)


def open_whole(folder: Path) -> tuple[Stamp, Bundle]:
    """Read a bundle that others may be writing at this moment, and its stamp.

    Raises:
        BundleError: it is damaged, which is only said of files that stood still while they were read.
    """
    if not (folder / MANIFEST).is_file():
        return (), Bundle.open(folder)  # which says what is missing
    while True:
        before = stamp(folder)
        try:
            bundle = Bundle.open(folder)
        except BundleError:
            if stamp(folder) == before:
                raise
            continue
        if stamp(folder) == before:
            return before, bundle


def per_request_feed(rows: Sequence[Rows], *, prompt_tokens: int) -> dict[str, np.ndarray]:
    """Prompts (B, K·m, D), padded on the right with zeros, and prompt_lens (B,), from the rows of each request."""
    longest = max(len(entry.prompts) for entry in rows)
    prompts = np.zeros((len(rows), longest, rows[0].prompts.shape[1]), dtype=np.float32)
    for padded, entry in zip(prompts, rows, strict=True):
        padded[: len(entry.prompts)] = entry.prompts
    lens = np.array([len(entry.prompts) // prompt_tokens for entry in rows], dtype=np.int32)
    return {INPUT_PROMPTS: prompts, INPUT_LENS: lens}


def write_bundle(
    folder: Path,
    *,
    model: bytes | None = None,
    graphs: Mapping[str, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
    bank: dict[str, np.ndarray],
    manifest: dict[str, Any],
) -> None:
    """Write the files of a new bundle; the manifest, which makes it one, comes last.

    Args:
        model: `model.onnx`, the ordinary graph.
        graphs: the graphs by file name, where they are others.
        others: further files by name; no class may be named in them.
    """
    files = {**({} if model is None else {MODEL: model}), **(graphs or {}), **(others or {})}
    files[BANK] = safetensors.numpy.save(bank)
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_bytes(folder / LEDGER, b"")
    hashed = {name: {"sha256": sha256_bytes(content), "size_bytes": len(content)} for name, content in files.items()}
    write_manifest(
        folder, {"format": FORMAT, "version": VERSION, **manifest, "files": hashed, "ledger_head": ledger.START}
    )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with its own hash in it, so that no edit of it goes unseen."""
    rest = {key: value for key, value in manifest.items() if key != OWN_HASH}
    write_json(folder / MANIFEST, {**rest, OWN_HASH: _hash(rest)})


def _hash(content: dict[str, Any]) -> str:
    """SHA-256 over canonical JSON, a number that is not one written as null, as on disk."""
    return sha256_bytes(json.dumps(finite(content), sort_keys=True, separators=(",", ":")).encode())


def _without(tensors: dict[str, np.ndarray], ids: Iterable[int]) -> bytes:
    gone = {f"{kind}.{number}" for kind in ("prompt", "weight", "bias") for number in ids}
    return safetensors.numpy.save({name: tensor for name, tensor in tensors.items() if name not in gone})


def _parse_bank(content: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{BANK} is damaged ({error}); restore it or export again") from error


def _manifest_classes(manifest: dict[str, Any]) -> ClassList:
    entries = manifest["classes"]
    return ClassList(tuple(entry["id"] for entry in entries), tuple(entry["name"] for entry in entries))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{path.parent} is no complete bundle: {path.name} is missing") from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {explain(error)}") from error
