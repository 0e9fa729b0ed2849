"""What requests have in common with earlier ones, read once: their heads, and the JSON in front of binary tensors.

Clients send the same head and the same JSON again and again, with other numbers behind them. When a bundle changes,
what is kept is asked once more whether its classes are there, and what names one that was erased goes: to read all of
it again would hold up every request for milliseconds. A head is kept by its hash, since there is a token in it.

Letters: B rows.
"""

import math
import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm_export.service.guard import JSON
from pfm_export.service.inference import BINARY, LENGTH
from pfm_export.service.models import Model
from pfm_export.service.plain import Plain
from pfm_export.service.refusals import UNKNOWN_CLASS, RefusedError
from pfm_export.service.tenants import Door, Tenant
from pfm_export.service.tensors import PROBABILITIES, InferRequest, as_numbers, read_infer, write_infer
from pfm_export.serving.answers import ActiveSet, Prediction
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.kinds import Batch

MOST_KEPT = 256  # outlines of a bundle
MOST_JSON = 1 << 12  # bytes of JSON of which an outline is kept
MOST_ANSWERS = 64  # of an outline: labels that were answered
_INFER = re.compile(rb"/v2/models/([A-Za-z0-9_.\-]+)/infer")


@dataclass(frozen=True, kw_only=True)
class Head:
    """Of a request.

    Attributes:
        length: of the body.
        json_length: of the JSON at its start, where tensors follow.
        token: as the door finds a tenant by.
    """

    model: str
    length: int
    json_length: int
    token: str


def read_head(request: Plain, door: Door) -> Head | None:
    """Of an ordinary request for an inference with binary tensors; None of others.

    Raises:
        RefusedError: it has no token.
    """
    asked = _INFER.fullmatch(request.target)
    headers = {name: value.decode("ascii") for name, value in request.headers}
    json_length = headers.get(LENGTH.lower().encode(), "")
    if asked is None or not (json_length.isdigit() and len(json_length) < 18):
        return None
    return Head(
        model=asked[1].decode("ascii"), length=len(request.body) + request.missing, json_length=int(json_length),
        token=door.key(headers.get(b"authorization", "")),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """All of a request but its numbers.

    Attributes:
        asked: with inputs of no row.
        shape: (B, …).
        rows: B items of one row, with no inputs.
    """

    asked: InferRequest
    shape: tuple[int, ...]
    chosen: ActiveSet
    rows: Batch
    _written: dict[tuple[str, tuple[str, ...]], tuple[bytes, bytes]] = field(
        default_factory=dict[tuple[str, tuple[str, ...]], tuple[bytes, bytes]]
    )

    def written(self, model: str, answer: Prediction) -> tuple[bytes, bytes]:
        """Headers of an answer, and its body."""
        last = self.asked.outputs[-1:]
        if len(answer.labels) != 1 or not last or last[0].name != PROBABILITIES or not last[0].is_binary:
            return self._write(model, answer)
        key, numbers = (answer.labels[0], answer.classes), answer.probabilities.astype("<f4", copy=False).tobytes()
        found = self._written.get(key)
        if found is None:
            headers, body = self._write(model, answer)
            if len(self._written) >= MOST_ANSWERS:
                self._written.clear()
            found = self._written[key] = (headers, body[: len(body) - len(numbers)])  # the rest is the same each time
        return found[0], found[1] + numbers

    def names_only(self, classes: Set[str]) -> bool:
        """Whether the request names no others."""
        return {*(self.asked.selection.active or ()), *self.asked.selection.without} <= classes

    def forget_but(self, classes: Set[str]) -> None:
        """Let go of answers that have others."""
        for key in [key for key in self._written if not set(key[1]) <= classes]:
            del self._written[key]

    def _write(self, model: str, answer: Prediction) -> tuple[bytes, bytes]:
        written = write_infer(model, self.asked, answer)
        kind = JSON if written.json_length is None else BINARY
        head = f"content-length: {len(written.body)}\r\ncontent-type: {kind}\r\n"
        more = "" if written.json_length is None else f"{LENGTH.lower()}: {written.json_length}\r\n"
        return (head + more).encode(), written.body


class Outlines:
    """Those of one model.

    Args:
        max_rows: of a request.
    """

    def __init__(self, model: Model, *, max_rows: int) -> None:
        self.model = model
        self._max_rows = max_rows
        self._owner: Bundle | None = None
        self._kept: dict[tuple[bytes, Tenant], Outline] = {}
        self._checked: set[tuple[bytes, Tenant]] = set()  # those whose classes are there as the bundle is now

    def read(self, body: memoryview, json_length: int, tenant: Tenant) -> tuple[Outline, npt.NDArray[Any]] | None:
        """A request with binary tensors; None of one that is to be read in the usual way.

        Args:
            body: the JSON, and the tensors behind it.
            tenant: that may predict.

        Raises:
            PfmError: it is refused, or the numbers are not as they have to be.
        """
        bundle = self.model.session.seen
        if self._owner is not bundle:
            self._follow(bundle)
        if not 0 < json_length <= min(MOST_JSON, len(body)):
            return None
        key = (bytes(body[:json_length]), tenant)
        outline = self._kept.get(key)
        if outline is None:
            return self._read_anew(body, key, tenant)
        kind = self.model.input
        dtype, numbers = np.dtype(kind.dtype).newbyteorder("<"), body[json_length:]
        if len(numbers) != math.prod(outline.shape) * dtype.itemsize:
            return None
        inputs = kind.checked(as_numbers(numbers, dtype).reshape(outline.shape))
        if key not in self._checked:
            selection = outline.asked.selection
            try:
                self.model.view(tenant, selection.profile, is_fresh=False).choose(selection)
            except RefusedError:  # what was suspended is refused no faster than what was erased
                del self._kept[key]
                raise
            self._checked.add(key)
        return outline, inputs

    def is_refused_for_good(self, error: RefusedError) -> bool:
        """Whether a request that `read` has just refused is refused by what the files say now, for a class.

        Raises:
            BundleError: they are damaged.
        """
        return error.why == UNKNOWN_CLASS and self.model.session.bundle is self._owner

    def _follow(self, bundle: Bundle) -> None:
        before, self._owner = self._owner, bundle
        self._checked.clear()
        if before is None or before.classes.names == bundle.classes.names:
            return
        there = frozenset(bundle.classes.names)
        self._kept = {key: outline for key, outline in self._kept.items() if outline.names_only(there)}
        for outline in self._kept.values():
            outline.forget_but(there)

    def _read_anew(
        self, body: memoryview, key: tuple[bytes, Tenant], tenant: Tenant
    ) -> tuple[Outline, npt.NDArray[Any]] | None:
        asked = read_infer(body, len(key[0]), self.model.input, max_rows=self._max_rows)
        if len(key[0]) == len(body) or asked.timeout is not None:  # the numbers are in the JSON; or it has its own time
            return None
        view = self.model.view(tenant, asked.selection.profile, is_fresh=False)
        kept = _without_numbers(asked)
        outline = Outline(
            asked=kept, shape=asked.inputs.shape, chosen=view.choose(asked.selection),
            rows=Batch.of_items(range(len(asked.inputs)), kept.inputs),
        )  # fmt: skip
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
            self._checked.clear()
        self._kept[key] = outline
        self._checked.add(key)
        return outline, asked.inputs


def _without_numbers(asked: InferRequest) -> InferRequest:
    return InferRequest(
        id=asked.id, inputs=asked.inputs[:0].copy(), selection=asked.selection, timeout=asked.timeout,
        outputs=asked.outputs,
    )  # fmt: skip
