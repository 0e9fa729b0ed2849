"""What is really in an artifact, as whoever opens it finds it: its classes, and digests of what belongs to each.

The digests outlive what may happen to an honest artifact. Erasing another class takes rows away, and may centre the
classifier rows that stay; the prompts of the others and the shared weights stay as they are. A suspension, a copy
and a move change none of it.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pfm.errors import CheckpointError
from pfm.forgetting.artifacts.text import may_hold_numbers
from pfm.forgetting.ledger import PROMPTS_CENTRED, Record, digest, number, text
from pfm.storage import sha256_bytes

if TYPE_CHECKING:
    import torch

    from pfm.forgetting.artifacts.kind import Left
    from pfm.model.checkpoint import Checkpoint

WRITTEN_OUT = "beside its tensors it has numbers or bytes written out that could be a prompt"
NOTHING = hashlib.sha256().hexdigest()  # the digest of no tensor at all
Part = tuple[str, str, tuple[int, ...], bytes]  # of a tensor: name, type, shape, values


@dataclass(frozen=True, kw_only=True)
class ClassContent:
    """Everything of one class.

    Attributes:
        prompt: digest of its prompt, and of the prompt's average.
        rows: digest of its classifier row and bias, and of their averages.
        sums: digest of what it adds to an exact solution, its samples' number and sums; "" of others.
    """

    number: int
    name: str
    prompt: str
    rows: str
    sums: str = ""

    def to_dict(self) -> Record:
        """What a certificate says of it."""
        own = {"id": self.number, "name": self.name, "prompt": self.prompt, "rows": self.rows}
        return {**own, **({"sums": self.sums} if self.sums else {})}


@dataclass(frozen=True, kw_only=True)
class Content:
    """What an artifact holds.

    Attributes:
        artifact_kind: "checkpoint" or "bundle".
        sha256: of the file that holds the classes: the checkpoint, or a bundle's bank.
        classes: those that are there, by what is stored.
        erased: number and name of those that it says were erased from it.
        shared: digest of everything that belongs to no class: shared weights, or a bundle's graphs.
        moments: digest of the optimizer's moments of what belongs to no class; NOTHING where there are none.
        files: name and SHA-256 of a bundle's other files.
        problems: what does not fit the list of classes, a line each.
        unknown: files that belong to it and were not looked into.
        exact: digest of what its rows were solved from, where that is what is left and is kept, so that they can be
            solved again; "" of others.
        prompts_centred: the prompts sum to zero, as an erasure may leave them.
    """

    artifact_kind: str
    sha256: str
    classes: tuple[ClassContent, ...]
    erased: tuple[tuple[int, str], ...]
    shared: str
    moments: str = NOTHING
    files: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    unknown: tuple[Path, ...] = ()
    exact: str = ""
    prompts_centred: bool = False

    def to_dict(self) -> Record:
        """What a certificate says of it."""
        return {
            **({PROMPTS_CENTRED: True} if self.prompts_centred else {}),
            "classes": [own.to_dict() for own in self.classes],
            "shared": self.shared,
            "moments": self.moments,
        }


@dataclass(frozen=True, kw_only=True)
class SignedContent:
    """What a certificate says of an artifact's content; the attributes are those of `Content`."""

    classes: tuple[ClassContent, ...]
    shared: str
    moments: str
    prompts_centred: bool = False

    @classmethod
    def of(cls, values: Record) -> "SignedContent":
        """
        Raises:
            KeyError, TypeError, ValueError: something is missing or of another type.
        """
        classes = tuple(
            ClassContent(
                number=number(entry["id"]), name=text(entry["name"]), prompt=digest(entry["prompt"]),
                rows=digest(entry["rows"]), sums=digest(entry.get("sums", "")),
            )
            for entry in values["classes"]
        )  # fmt: skip
        return cls(
            classes=classes,
            shared=digest(values["shared"]),
            moments=digest(values["moments"]),
            prompts_centred=values.get(PROMPTS_CENTRED) is True,
        )


def sums_digest(count: int, sha256: str) -> str:
    """Of what a class adds to an exact solution: how many samples, and the SHA-256 of their sums."""
    return sha256_bytes(f"{count} {sha256}".encode())


def digest_of(parts: Iterable[Part]) -> str:
    """SHA-256 over tensors, in the order of their names."""
    whole = hashlib.sha256()
    for name, kind, shape, values in sorted(parts):
        head = f"{name}\n{kind}\n{','.join(map(str, shape))}\n{len(values)}\n"
        whole.update(head.encode(errors="surrogatepass"))
        whole.update(values)
    return whole.hexdigest()


def checkpoint_content(path: Path, *, solves: bool = False) -> Content:
    """Open a checkpoint and look; needs torch.

    Args:
        solves: solve an exact readout again, from what is kept.

    Raises:
        CheckpointError: it is not one, or cannot be read, or torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise CheckpointError(f"{path} cannot be opened: a checkpoint needs torch, which is not installed")
    from pfm.forgetting.erase import prompts_are_centred
    from pfm.forgetting.solution import misfits_of_solution
    from pfm.model.checkpoint import load_checkpoint
    from pfm.model.classifier import class_row_names
    from pfm.model.opening import hidden
    from pfm.storage import sha256

    checkpoint = load_checkpoint(path)
    of_classes = class_row_names()
    bank = of_classes[0]
    stored = {"": checkpoint.tensors, "averaged ": checkpoint.averaged}
    states = {
        f"{key} of {name}": value
        for name, state in checkpoint.moments.items()
        for key, value in state.items()
        if name not in of_classes
    }
    sums = _sums(checkpoint)
    classes = tuple(
        ClassContent(
            number=number,
            name=name,
            prompt=digest_of(_rows(stored, position, [bank])),
            rows=digest_of(_rows(stored, position, of_classes[1:])),
            sums=sums.get(name, ""),
        )
        for position, (number, name) in enumerate(zip(checkpoint.classes.ids, checkpoint.classes.names, strict=True))
    )
    shared = [
        _part(prefix + name, tensor)
        for prefix, tensors in stored.items()
        for name, tensor in tensors.items()
        if name not in of_classes
    ]
    return Content(
        artifact_kind="checkpoint",
        sha256=sha256(path),
        classes=classes,
        erased=checkpoint.erased,
        shared=digest_of(shared),
        moments=digest_of(_part(name, tensor) for name, tensor in states.items()),
        problems=(
            *_misfits(checkpoint, of_classes),
            *hidden(path),
            *_written_out(path),
            *(misfits_of_solution(checkpoint) if solves else ()),
        ),
        exact=str(checkpoint.exact["digest"]) if can_be_solved(checkpoint) else "",
        prompts_centred=prompts_are_centred(checkpoint),
    )


def can_be_solved(checkpoint: "Checkpoint") -> bool:
    """Whether its rows are said to be an exact solution, and what they were solved from is there to look."""
    return bool(checkpoint.exact.get("is_solved")) and checkpoint.exact["memory"] != "none"


def _sums(checkpoint: "Checkpoint") -> dict[str, str]:
    """By the classes' names; nothing where the rows are not an exact solution."""
    record = checkpoint.exact
    if not can_be_solved(checkpoint):
        return {}
    each = zip(record["classes"], record["counts"], record["hashes"], strict=True)
    return {name: sums_digest(count, sha256) for name, count, sha256 in each}


def prompts_of(checkpoint: "Checkpoint") -> "list[Left]":
    """Number, name and digest of the prompt of each class."""
    from pfm.model.classifier import BANK

    stored = {"": checkpoint.tensors, "averaged ": checkpoint.averaged}
    pairs = zip(checkpoint.classes.ids, checkpoint.classes.names, strict=True)
    return [
        {"id": number, "name": name, "prompt": digest_of(_rows(stored, position, [BANK]))}
        for position, (number, name) in enumerate(pairs)
    ]


def _rows(stored: "Mapping[str, Mapping[str, torch.Tensor]]", position: int, names: Iterable[str]) -> list[Part]:
    return [
        _part(prefix + name, tensors[name][position])
        for prefix, tensors in stored.items()
        for name in names
        if name in tensors and position < len(tensors[name])
    ]


def _part(name: str, tensor: "torch.Tensor") -> Part:
    import torch

    values = tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return name, str(tensor.dtype), tuple(tensor.shape), values


def _written_out(path: Path) -> list[str]:
    """Whether a checkpoint's plain fields, which nobody signs, could hold a prompt as numbers or letters."""
    from pfm.model.opening import MEMORY, TENSORS, open_torch_file

    fields = open_torch_file(path).items()
    plain = {name: value for name, value in fields if name not in (*TENSORS, MEMORY, "exact")}
    return [WRITTEN_OUT] if may_hold_numbers(json.dumps(plain, default=str)) else []


def _misfits(checkpoint: "Checkpoint", of_classes: Iterable[str]) -> list[str]:
    """What has another number of rows than there are classes; a class that left the list alone is still in those."""
    count = len(checkpoint.classes)
    found = [
        (f"{what}{name}", len(tensor) if tensor.ndim else 0)
        for name in of_classes
        for what, tensor in [
            *(("", t[name]) for t in (checkpoint.tensors,) if name in t),
            *(("the average of ", t[name]) for t in (checkpoint.averaged,) if name in t),
            *((f"{key} of ", m) for key, m in checkpoint.moments.get(name, {}).items() if m.ndim),
        ]
    ]
    lost = [entry for entry in checkpoint.erased if entry[0] in checkpoint.classes.ids]
    lost += [entry for entry in checkpoint.erased if entry[1] in checkpoint.classes.names and entry not in lost]
    return [
        *(f"{what} has {rows} rows, and the list has {count} classes" for what, rows in found if rows != count),
        *(f"class {name} is listed as erased, and is there" for _, name in lost),
    ]
