"""The graphs of a bundle, one or two, whatever their inputs, called in one way.

Letters: B batch, T tokens, D hidden size, K active prompts, C classifier rows that are given.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pfm.errors import DeviceError
from pfm_export.serving.bank import Floats, Rows, per_request_feed
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.devices import HINTS
from pfm_export.serving.open_vino import OpenVinoGraph
from pfm_export.serving.runtime import Graph, Tensor, load_graph
from pfm_export.serving.signature import (
    INPUT_BIAS,
    INPUT_LENS,
    INPUT_PROMPTS,
    INPUT_WEIGHT,
    TOKENS,
    TRUNK,
    Signatures,
)

ROWS_AT_ONCE = 1024  # of the rows that read integers
MOST_KEPT = 64  # active sets whose rows stay on the device


class GraphRunner:
    """Runs a bundle's graph or graphs in ONNX Runtime or OpenVINO; several threads may call it.

    The graphs belong to no class. What belongs to one, the rows of the bank, comes with the bundle
    of each call, so that a bundle of which a class was erased meanwhile is served from then on.

    Args:
        threads: of one pass; 0 leaves the choice to ONNX Runtime.
        cuda_graphs: record the kernels of each shape once and replay them.
        spin: let idle threads wait busily for the next call, ONNX Runtime's default.
    """

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", threads: int = 0, cuda_graphs: bool = False, spin: bool = True
    ) -> None:
        self.input = bundle.input
        self._ends = bundle.stated.signatures
        self._prompt_tokens = bundle.stated.prompt_tokens
        if cuda_graphs and device in HINTS:
            raise DeviceError("CUDA graphs need --device cuda")
        self.graphs: dict[str, Graph | OpenVinoGraph] = {
            name: OpenVinoGraph(bundle, name, device=device, threads=threads)
            if device in HINTS
            else Graph(
                load_graph(bundle, device=device, threads=threads, name=name, cuda_graphs=cuda_graphs, spin=spin),
                keeps_output=name == TRUNK,
                captures=cuda_graphs,
            )
            for name in self._ends.files
        }
        self._last = list(self.graphs.values())[-1]
        self._process = os.getpid()
        self._is_on_gpu = isinstance(self._last, Graph) and self._last.device != "cpu"
        self._kept: tuple[Bundle, dict[tuple[object, ...], dict[str, Tensor]]] | None = None
        self._gathered: tuple[Bundle, dict[tuple[int, ...], Rows]] | None = None

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graphs."""
        return self._last.provider

    def signatures(self) -> Signatures:
        """Names of inputs and outputs of each file, as ONNX Runtime sees them."""
        return Signatures({name: graph.signature for name, graph in self.graphs.items()})

    def trunk(self, inputs: npt.NDArray[Any]) -> Tensor:
        """What any number of active sets can be asked of: tokens (B, T, D), or the inputs where there is no trunk.

        Raises:
            DeviceError: it is on a GPU, and this is a fork of the process that loaded it: there CUDA cannot be used,
                and the thread of the recordings is not there, so that it would be waited for for ever.
        """
        if self._is_on_gpu and os.getpid() != self._process:
            raise DeviceError(
                "the bundle was loaded onto the GPU before this process was forked, and cannot be used here; open it "
                "here anew, or start processes with multiprocessing's spawn"
            )
        return self.graphs[TRUNK].run(self.input.feed(inputs)) if self._ends.is_split else inputs

    def scores(self, bundle: Bundle, inputs: npt.NDArray[Any], actives: Sequence[tuple[int, ...]]) -> list[Floats]:
        """Each input's scores (K,), or logits, of its own active classes.

        Args:
            bundle: whose classes; the graphs must be its own.
            inputs: (B, …) as the graph takes them.
            actives: positions of each input's classes.

        Raises:
            DataError: inputs of another shape or type.
        """
        tokens = self.trunk(self.input.checked(inputs))
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, active in enumerate(actives):
            groups.setdefault(active, []).append(place)
        if len(groups) == 1:
            return list(self.head(bundle, tokens, actives, actives[0]))
        if self._ends.has_own_prompts:
            union = sorted(set[int]().union(*groups))
            found = self.head(bundle, tokens, actives, union)
            if self._ends.scores_prompts:  # a column for each of a row's prompts, padding behind
                return [row[: len(active)] for row, active in zip(found, actives, strict=True)]
            columns = {active: np.searchsorted(union, active) for active in groups}
            return [row[columns[active]] for row, active in zip(found, actives, strict=True)]
        whole = tokens if isinstance(tokens, np.ndarray) else tokens.numpy()
        scores: list[Floats] = [np.zeros(0, np.float32)] * len(actives)
        for active, places in groups.items():
            for place, row in zip(places, self.head(bundle, whole[places], [active], active), strict=True):
                scores[place] = row
        return scores

    def drop_rows(self) -> None:
        """Let go of the rows that are kept, on the device or not."""
        self._kept = self._gathered = None

    def head(self, bundle: Bundle, tokens: Tensor, actives: Sequence[Sequence[int]], rows: Sequence[int]) -> Floats:
        """Logits (B, C), or scores (B, K) with padding behind.

        Args:
            bundle: whose classes; the graphs must be its own.
            tokens: of `trunk`.
            actives: positions of the active prompts of each input; all alike in graphs whose prompts are shared.
            rows: positions of the classifier rows given, where the graph takes some.

        Raises:
            DataError: inputs of another shape or type.
        """
        if not self._ends.has_own_prompts:
            assert all(list(active) == list(actives[0]) for active in actives), "these graphs share their prompts"
            return self.head_of(tokens, self._rows(bundle, actives[0], rows))
        of_each = [self._rows_of(bundle, active) for active in actives]
        prompts = per_request_feed(of_each, prompt_tokens=self._prompt_tokens)
        return self.head_of(tokens, {**prompts, **self._rows_of(bundle, rows).classifier_feed()})

    def head_of(self, tokens: Tensor, feed: Mapping[str, Tensor]) -> Floats:
        """As `head`, with everything of a class as the graph takes it."""
        return self._last.numbers({**self._first(tokens), **feed})

    def read_integers(self, tokens: Tensor, width: int) -> Floats:
        """(B, P) projected integers of a readout that is solved: each is the score of a row that asks for it alone."""
        own = np.eye(width, dtype=np.float32)
        empty: dict[str, Tensor] = {INPUT_PROMPTS: np.zeros((0, width), np.float32)}
        if self._ends.has_own_prompts:
            count = len(tokens) if isinstance(tokens, np.ndarray) else tokens.shape()[0]
            empty = {INPUT_PROMPTS: np.zeros((count, 0, width), np.float32), INPUT_LENS: np.zeros(count, np.int32)}
        parts = [
            self.head_of(tokens, {**empty, INPUT_WEIGHT: part, INPUT_BIAS: np.zeros(len(part), np.float32)})
            for part in np.split(own, range(ROWS_AT_ONCE, width, ROWS_AT_ONCE))
        ]
        return np.concatenate(parts, axis=1)

    def _first(self, tokens: Tensor) -> Mapping[str, Tensor]:
        if self._ends.is_split:
            return {TOKENS: tokens}
        assert isinstance(tokens, np.ndarray)  # where there is no trunk, they are the inputs
        return self.input.feed(tokens)

    def _rows_of(self, bundle: Bundle, positions: Sequence[int]) -> Rows:
        """The rows of some classes in order, gathered when they were first asked for."""
        owner, gathered = self._gathered or (bundle, {})
        if not bundle.has_rows_of(owner) or len(gathered) >= MOST_KEPT:
            gathered = {}
        self._gathered = (bundle, gathered)
        key = tuple(positions)
        if key not in gathered:
            gathered[key] = bundle.rows(positions)
        return gathered[key]

    def _rows(self, bundle: Bundle, active: Sequence[int], rows: Sequence[int]) -> Mapping[str, Tensor]:
        """The inputs that belong to classes, on the device since they were first asked for."""
        owner, kept = self._kept or (bundle, {})
        if not bundle.has_rows_of(owner) or len(kept) >= MOST_KEPT:
            kept = {}
        self._kept = (bundle, kept)
        key = (tuple(active), tuple(rows))
        if key not in kept:
            feed = {INPUT_PROMPTS: bundle.rows(active).prompts, **bundle.rows(rows).classifier_feed()}
            kept[key] = {name: self._last.put(array) for name, array in feed.items()}
        return kept[key]
