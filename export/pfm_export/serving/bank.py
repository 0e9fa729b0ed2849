"""The small file that holds everything of the classes: `bank.safetensors`.

    prompt.<i>  [m, D]      and where the graph takes classifier rows     weight.<i> [D], bias.<i> []

Letters: K classes that are used, m tokens per prompt, D hidden size, B requests.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from safetensors import SafetensorError

from pfm.errors import BundleError
from pfm.forgetting.centring import centred_by_name, sums_to_zero
from pfm.forgetting.search import Row
from pfm.storage import sha256_bytes
from pfm_export.serving.signature import INPUT_BIAS, INPUT_LENS, INPUT_PROMPTS, INPUT_WEIGHT

BANK = "bank.safetensors"
LONGEST_HEADER = 100_000_000  # bytes, as the safetensors library has it
Floats = npt.NDArray[np.float32]
_ROWS = ("weight", "bias")  # of the classifier


@dataclass(frozen=True)
class Rows:
    """The bank's rows of some classes, ready to be fed: prompts [K·m, D], weight [K, D], bias [K]."""

    prompts: Floats
    weight: Floats | None
    bias: Floats | None

    def feed(self) -> dict[str, Floats]:
        """By the names of the graph's inputs."""
        return {INPUT_PROMPTS: self.prompts, **self.classifier_feed()}

    def classifier_feed(self) -> dict[str, Floats]:
        """The same without the prompts; empty where the graph takes no classifier rows."""
        if self.weight is None or self.bias is None:
            return {}
        return {INPUT_WEIGHT: self.weight, INPUT_BIAS: self.bias}


@dataclass(frozen=True)
class BankShape:
    """What a bank has for each class.

    Attributes:
        hidden_size: D.
        prompt_tokens: m.
        has_rows: a classifier row beside the prompt.
    """

    hidden_size: int
    prompt_tokens: int
    has_rows: bool

    @property
    def has_prompts_alone(self) -> bool:
        """Whether a class owns a prompt and nothing else."""
        return bool(self.prompt_tokens) and not self.has_rows

    def of_class(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of a class."""
        rows: dict[str, tuple[int, ...]] = {"weight": (self.hidden_size,), "bias": ()} if self.has_rows else {}
        return {"prompt": (self.prompt_tokens, self.hidden_size), **rows}


class Bank:
    """The tensors of a bank file, and the hash of its bytes."""

    def __init__(self, tensors: Mapping[str, Floats], sha256: str, shape: BankShape) -> None:
        self.sha256 = sha256
        self._tensors = tensors
        self._shape = shape

    @classmethod
    def parse(cls, content: bytes, shape: BankShape, path: Path) -> "Bank":
        """From the bytes of a file.

        Args:
            path: where it is, for an error.

        Raises:
            BundleError: they are not those of a safetensors file.
        """
        try:
            return cls(safetensors.numpy.load(content), sha256_bytes(content), shape)
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path} is damaged ({error}); restore it or export again") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Of the tensors."""
        return tuple(self._tensors)

    def missing(self, ids: Iterable[int]) -> str | None:
        """The first tensor of these classes that is not there or of another shape; None where all are right."""
        for number in ids:
            for kind, shape in self._shape.of_class().items():
                tensor = self._tensors.get(f"{kind}.{number}")
                if tensor is None or tensor.shape != shape or tensor.dtype != np.float32:
                    return f"{kind}.{number}"
        return None

    def stray(self, ids: Iterable[int]) -> str | None:
        """The first tensor that belongs to none of these classes; None where there is none."""
        known = {f"{kind}.{number}" for number in ids for kind in self._shape.of_class()}
        return min(set(self._tensors) - known, default=None)

    def tensors_of(self, number: int) -> dict[str, Floats]:
        """What is stored of one class, by the names before the dot."""
        return {kind: self._tensors[f"{kind}.{number}"] for kind in self._shape.of_class()}

    def rows(self, ids: Sequence[int]) -> Rows:
        """The rows of these classes, in this order."""
        none = np.zeros((0, self._shape.hidden_size), np.float32)
        prompts = np.concatenate([self._tensors[f"prompt.{i}"] for i in ids] or [none])
        if not self._shape.has_rows:
            return Rows(prompts, None, None)
        weight = np.stack([self._tensors[f"weight.{i}"] for i in ids]) if ids else none
        return Rows(prompts, weight, np.array([self._tensors[f"bias.{i}"] for i in ids], dtype=np.float32))

    def rows_from(self, solved: Mapping[str, Floats], ids: Sequence[int]) -> Rows:
        """The same with classifier rows that were solved since, by their names in a bank."""
        return dataclasses.replace(
            self.rows(ids),
            weight=np.stack([solved[f"weight.{i}"] for i in ids]) if ids else self.rows(ids).weight,
            bias=np.array([solved[f"bias.{i}"] for i in ids], dtype=np.float32),
        )

    @property
    def prompts_centred(self) -> bool | None:
        """Whether the prompts sum to zero, as an erasure may leave them; None where there are none."""
        if not self._shape.prompt_tokens:
            return None
        prompts = [tensor for name, tensor in self._tensors.items() if name.startswith("prompt.")]
        return bool(prompts) and sums_to_zero(np.stack(prompts))

    def without(
        self,
        ids: Iterable[int],
        *,
        is_centred: bool = True,
        centre_prompts: bool = False,
        solved: Mapping[str, Floats] | None = None,
    ) -> bytes:
        """The bytes of a bank that holds nothing of these classes.

        Args:
            is_centred: the classifier rows that are left are moved to mean zero, so that those that went do not
                follow from them (see `pfm.forgetting.centring`).
            centre_prompts: so are the prompts.
            solved: classifier rows by their names, in place of those that are left.
        """
        gone = {f"{kind}.{number}" for number in ids for kind in (*_ROWS, "prompt")}
        kept = {name: tensor for name, tensor in self._tensors.items() if name not in gone}
        if solved is not None:
            return pack({**kept, **solved})
        kinds = (*(_ROWS if is_centred else ()), *(("prompt",) if centre_prompts else ()))
        return pack(centred_by_name(kept, kinds))

    def search_rows(self, ids: Iterable[int]) -> list[Row]:
        """What of these classes a file can be searched for."""
        found: list[Row] = []
        for number in ids:
            for kind, shape in self._shape.of_class().items():
                whole = [t for name, t in self._tensors.items() if name.rpartition(".")[0] == kind]
                largest = max((float(np.abs(tensor).max(initial=0)) for tensor in whole), default=0.0)
                tokens = self._tensors[f"{kind}.{number}"].reshape(-1, shape[-1] if shape else 1)  # (m, D)
                for token, values in enumerate(tokens):
                    name = f"{kind}.{number}" + (f" token {token}" if len(tokens) > 1 else "")
                    found.append(Row(name=name, values=values, largest=largest))
        return found


def unpack(content: bytes) -> dict[str, Floats]:
    """The tensors of such a file.

    Raises:
        ValueError: it is not one.
    """
    try:
        return safetensors.numpy.load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def tensor_names(path: Path, head: bytes) -> tuple[str, ...]:
    """Names of the tensors of a safetensors file; none where it is not one.

    Args:
        head: its first bytes, 8 or more.
    """
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or head[8:9] != b"{" or length > LONGEST_HEADER:
        return ()
    try:
        with path.open("rb") as file:
            header: Any = json.loads(file.read(8 + length)[8:])
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(name for name in cast("dict[str, Any]", header) if name != "__metadata__")


def pack(tensors: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The bytes of a bank file."""
    return safetensors.numpy.save(dict(tensors))


def per_request_feed(rows: Sequence[Rows], *, prompt_tokens: int) -> dict[str, npt.NDArray[np.float32 | np.int32]]:
    """Prompts (B, K·m, D), padded on the right with zeros, and prompt_lens (B,), from the rows of each request."""
    longest = max(len(entry.prompts) for entry in rows)
    prompts = np.zeros((len(rows), longest, rows[0].prompts.shape[1]), dtype=np.float32)
    for padded, entry in zip(prompts, rows, strict=True):
        padded[: len(entry.prompts)] = entry.prompts
    lens = np.array([len(entry.prompts) // max(1, prompt_tokens) for entry in rows], dtype=np.int32)
    return {INPUT_PROMPTS: prompts, INPUT_LENS: lens}
