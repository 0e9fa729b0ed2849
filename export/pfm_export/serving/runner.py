"""The graphs of a bundle, of whatever form, called in one way.

Letters: B batch, T tokens, D hidden size, K active prompts, C classifier rows that are given.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pfm.errors import DataError
from pfm_export.serving.bundle import INPUT_BIAS, INPUT_PROMPTS, INPUT_WEIGHT, MODEL, Bundle, Rows, per_request_feed
from pfm_export.serving.form import HEAD, TOKENS, TRUNK, GraphForm
from pfm_export.serving.runtime import Graph, Tensor, load_graph

MOST_KEPT = 64  # active sets whose rows stay on the device


class GraphRunner:
    """Runs a bundle's graph or graphs in ONNX Runtime; several threads may call it.

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
        self.form = GraphForm.of(bundle)
        self._inputs = self.form.first_inputs(bundle.preprocess["kind"])
        names = (TRUNK, HEAD) if self.form.split else (MODEL,)
        self.graphs = {
            name: Graph(
                load_graph(bundle, device=device, threads=threads, name=name, cuda_graphs=cuda_graphs, spin=spin),
                keeps_output=name == TRUNK,
                captures=cuda_graphs,
            )
            for name in names
        }
        self._last = self.graphs[names[-1]]
        self._kept: tuple[Bundle, dict[tuple[object, ...], dict[str, Tensor]]] | None = None

    @property
    def provider(self) -> str:
        """The execution provider that really runs the graphs."""
        return self._last.provider

    def signatures(self) -> dict[str, tuple[list[str], list[str]]]:
        """Names of inputs and outputs of each file, as ONNX Runtime sees them."""
        return {name: (graph.inputs, graph.outputs) for name, graph in self.graphs.items()}

    def trunk(self, inputs: np.ndarray) -> Tensor:
        """What any number of active sets can be asked of: tokens (B, T, D), or the inputs where there is no trunk."""
        if not self.form.split:
            return inputs
        return self.graphs[TRUNK].run(self._first_feed(inputs))

    def scores(self, bundle: Bundle, inputs: np.ndarray, actives: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
        """Each input's scores (K,), or logits, of its own active classes.

        Args:
            bundle: whose classes; the graphs must be its own.
            inputs: (B, …) as the form takes them.
            actives: positions of each input's classes.

        Raises:
            DataError: inputs of another shape or type.
        """
        wanted = np.uint8 if self.form.uint8_input else np.float32
        if self.form.uint8_input and inputs.dtype != wanted:
            raise DataError(f"the input does not fit the graph: it takes uint8 images, got {inputs.dtype}")
        tokens = self.trunk(np.ascontiguousarray(inputs, dtype=wanted))
        groups: dict[tuple[int, ...], list[int]] = {}
        for place, active in enumerate(actives):
            groups.setdefault(active, []).append(place)
        if len(groups) == 1:
            return list(self.head(bundle, tokens, actives, actives[0]))
        if self.form.per_request_prompts:
            union = sorted(set().union(*groups))
            found = self.head(bundle, tokens, actives, union)
            if bundle.readout == "prompt":  # a column for each of a row's prompts, padding behind
                return [row[: len(active)] for row, active in zip(found, actives, strict=True)]
            column = {position: index for index, position in enumerate(union)}
            return [row[[column[p] for p in active]] for row, active in zip(found, actives, strict=True)]
        whole = tokens if isinstance(tokens, np.ndarray) else tokens.numpy()
        scores: list[np.ndarray] = [np.zeros(0, np.float32)] * len(actives)
        for active, places in groups.items():
            for place, row in zip(places, self.head(bundle, whole[places], [active], active), strict=True):
                scores[place] = row
        return scores

    def drop_rows(self) -> None:
        """Let go of the rows that are kept on the device."""
        self._kept = None

    def head(self, bundle: Bundle, tokens: Tensor, actives: Sequence[Sequence[int]], rows: Sequence[int]) -> np.ndarray:
        """Logits (B, C), or scores (B, K) with padding behind.

        Args:
            bundle: whose classes; the graphs must be its own.
            tokens: of `trunk`.
            actives: positions of the active prompts of each input; all alike in a form whose prompts are shared.
            rows: positions of the classifier rows given, where the readout has some.

        Raises:
            DataError: inputs of another shape or type.
        """
        if not self.form.per_request_prompts:
            assert all(list(active) == list(actives[0]) for active in actives), "this form shares its prompts"
            feed = self._rows(bundle, actives[0], rows)
        else:
            requests = [bundle.rows(active) for active in actives]
            feed = {
                **per_request_feed(requests, prompt_tokens=bundle.manifest["prompt_tokens"]),
                **_classifier(bundle.rows(rows)),
            }
        return self.head_of(tokens, feed)

    def head_of(self, tokens: Tensor, feed: Mapping[str, Tensor]) -> np.ndarray:
        """As `head`, with everything of a class as the graph takes it."""
        first = {TOKENS: tokens} if self.form.split else self._first_feed(tokens)
        return self._last.run({**first, **feed}).numpy()

    def _first_feed(self, inputs: Tensor) -> dict[str, Tensor]:
        """What is classified, as the graph takes it."""
        if not self.form.with_frontend:
            return {self._inputs[0]: inputs}
        assert isinstance(inputs, np.ndarray)
        is_there = ~np.isnan(inputs)  # a row's samples, and NaN behind them
        counts = is_there.sum(axis=1, dtype=np.int32)
        return dict(zip(self._inputs, (np.where(is_there, inputs, np.float32(0)), counts), strict=True))

    def _rows(self, bundle: Bundle, active: Sequence[int], rows: Sequence[int]) -> dict[str, Tensor]:
        """The inputs that belong to classes, on the device since they were first asked for."""
        owner, kept = self._kept or (None, {})
        if owner is not bundle or len(kept) >= MOST_KEPT:
            kept = {}
            self._kept = (bundle, kept)
        key = (tuple(active), tuple(rows))
        if key not in kept:
            feed = {INPUT_PROMPTS: bundle.rows(active).prompts, **_classifier(bundle.rows(rows))}
            kept[key] = {name: self._last.put(array) for name, array in feed.items()}
        return kept[key]


def _classifier(rows: Rows) -> dict[str, Tensor]:
    given = rows.feed()
    return {name: given[name] for name in (INPUT_WEIGHT, INPUT_BIAS) if name in given}
