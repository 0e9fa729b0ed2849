"""Graph against model: names, then shapes, then values; the worst difference is reported.

Letters: B batch, K active prompts, C classes, S pixels of the model's side.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch leaves the types of some of its own functions open

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from pfm.data.inputs import preprocess_from_dict
from pfm.errors import PfmError
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.seeds import make_generator
from pfm.storage import Json
from pfm_export.graph.form import GraphForm
from pfm_export.graph.front_ends import FRONT_ENDS, ParityInput
from pfm_export.graph.precisions import PRECISIONS
from pfm_export.serving.bank import Floats
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner

BATCH_SIZES = (1, 3, 8)
STEP = (
    2e-2  # of logits that come of integers: the last bit of a feature, or of a resized pixel, may round the other way
)


class ParityError(PfmError):
    """The graph does not give the model's numbers."""


@dataclass(frozen=True)
class ParityCase:
    """One batch and the active set of each of its rows.

    Attributes:
        active: positions in the bundle; where a batch mixes sets, of the row that has most.
        inputs: what went in, "random" or the pixels of the images.
    """

    batch_size: int
    active: tuple[int, ...]
    worst_difference: float
    is_mixed: bool = False
    inputs: str = "random"

    def describe(self) -> str:
        sets = "mixed sets, up to " if self.is_mixed else ""
        return f"batch {self.batch_size}, {self.inputs} inputs, {sets}{len(self.active)} prompts"


@dataclass(frozen=True, kw_only=True)
class IntegerParity:
    """The projected integers of a readout that is solved, graph against model.

    Attributes:
        compared, differ: how many, and how many of them are others.
        worst_difference: of one of them.
    """

    compared: int = 0
    differ: int = 0
    worst_difference: int = 0

    def more(self, got: Floats, wanted: Floats) -> "IntegerParity":
        """With another batch (B, P)."""
        off = np.abs(got - wanted)
        return IntegerParity(
            compared=self.compared + off.size,
            differ=self.differ + int((off != 0).sum()),
            worst_difference=max(self.worst_difference, int(off.max(initial=0))),
        )

    def describe(self) -> str:
        """For people."""
        return f"{self.differ:,} of {self.compared:,} integers differ, by {self.worst_difference} at the most"


@dataclass(frozen=True)
class ParityReport:
    """All cases compared.

    Attributes:
        integers: of a readout that has some.
        largest_logit: size of the numbers that were compared.
        relative_tolerance: of a difference, relative to the largest logit, or to 1 where that is smaller.
    """

    cases: tuple[ParityCase, ...]
    largest_logit: float
    relative_tolerance: float
    integers: IntegerParity | None = None

    @property
    def worst_difference(self) -> float:
        return max(case.worst_difference for case in self.cases)

    @property
    def tolerance(self) -> float:
        """Absolute: the relative one times the largest logit, or times 1 where that is smaller."""
        return self.relative_tolerance * max(1.0, self.largest_logit)

    def to_dict(self) -> Json:
        return {
            "worst_difference": self.worst_difference,
            "largest_logit": self.largest_logit,
            "tolerance": self.tolerance,
            **({} if self.integers is None else {"integers": asdict(self.integers)}),
            "cases": [
                {
                    "batch_size": c.batch_size,
                    "num_prompts": len(c.active),
                    "is_mixed": c.is_mixed,
                    "inputs": c.inputs,
                    "worst_difference": c.worst_difference,
                }
                for c in self.cases
            ],
        }

    def describe(self) -> str:
        """A line for each case, for people."""
        lines = [f"  {case.describe():<55}{case.worst_difference:.1e}" for case in self.cases]
        return "\n".join(lines)

    def require(self) -> None:
        """Refuse a graph that is off.

        Raises:
            ParityError: a difference above the tolerance.
        """
        wrong = [case for case in self.cases if not case.worst_difference <= self.tolerance]
        if wrong:
            worst = max(wrong, key=lambda case: case.worst_difference)
            raise ParityError(
                f"{len(wrong)} of {len(self.cases)} cases differ; {worst.describe()}: the graph is "
                f"{worst.worst_difference:.1e} off, more than {self.tolerance:.0e}"
            )


def active_sets(num_classes: int) -> list[tuple[int, ...]]:
    """Sets of size 0, 1, some and all, the last two in shuffled order."""
    order = torch.randperm(num_classes, generator=make_generator("parity", num_classes)).tolist()
    sets = [(), (order[0],), tuple(order[: (num_classes + 1) // 2]), tuple(order)]
    return list(dict.fromkeys(sets))


def check_parity(model: PromptedClassifier, folder: Path, *, tolerance: float | None = None) -> ParityReport:
    """Compare a bundle in ONNX Runtime on the CPU with the torch model it was made from.

    Args:
        tolerance: relative to the largest logit.  [default: that of the precision, or of the nodes in front of the
            graph where they ask for more]

    Raises:
        ParityError: another name, another shape, or a difference above the tolerance.
    """
    report = measure_parity(model, folder, tolerance=tolerance)
    report.require()
    return report


@torch.inference_mode()
def measure_parity(model: PromptedClassifier, folder: Path, *, tolerance: float | None = None) -> ParityReport:
    """As `check_parity`, but a difference is reported and not judged.

    Classes may have been erased from the bundle: those that are left are compared, logits less their mean where the
    classifier has a row for each class.

    Raises:
        ParityError: a bundle of another model, or a graph with other names or shapes.
    """
    bundle = Bundle.open(folder)
    form, kind = GraphForm.of(bundle), bundle.input
    comparison = _Comparison(model.eval(), bundle, GraphRunner(bundle))
    comparison.require_names(form)
    front_end = FRONT_ENDS.get(kind.name)(kind, preprocess_from_dict(bundle.manifest["preprocess"]))
    cases: list[ParityCase] = []
    for batch_size in BATCH_SIZES:
        for given in front_end.parity_inputs(batch_size, make_generator("parity", batch_size)):
            cases += comparison.cases(given, can_mix=form.per_request_prompts and batch_size > 1)
    if tolerance is None:
        of_integers = 0.0 if model.readout.sees_prompts else STEP
        tolerance = max(PRECISIONS.get(form.precision).tolerance, front_end.tolerance, of_integers)
    return ParityReport(tuple(cases), comparison.largest, tolerance, comparison.integers)


class _Comparison:
    """A model beside the graph that was made from it, both in evaluation.

    Attributes:
        largest: size of the largest logit compared so far.
        integers: projected integers compared so far, where the readout has some.
    """

    def __init__(self, model: PromptedClassifier, bundle: Bundle, runner: GraphRunner) -> None:
        self.largest = 0.0
        self._model = model
        self._bundle = bundle
        self._runner = runner
        self._positions = _positions(model, bundle)  # in the model, of each of the bundle's classes
        self._scores_all = not bundle.stated.signatures.scores_prompts
        self.integers = None if model.readout.sees_prompts else IntegerParity()
        # an erasure moves the rows of the classes that are left, and with them all logits of a forward by one number
        self._up_to_a_shift = self._scores_all and bool(bundle.stated.erased)

    def require_names(self, form: GraphForm) -> None:
        """
        Raises:
            ParityError: a graph has other inputs or outputs than the form has.
        """
        readout = self._model.readout
        expected = form.signatures(type(self._bundle.input), readout.graph_inputs, readout.graph_output)
        found = self._runner.signatures()
        for name, wanted in expected.files.items():
            if found.files[name] != wanted:
                raise ParityError(f"the inputs and outputs of {name} are {found.files[name]}, expected {wanted}")

    def cases(self, given: ParityInput, *, can_mix: bool) -> Iterator[ParityCase]:
        """One batch with several active sets.

        Args:
            can_mix: rows of one batch can have different sets.

        Raises:
            ParityError: another shape.
        """
        tokens = self._runner.trunk(given.taken)  # once, whatever the number of sets
        if self.integers is not None:
            trunk = self._model.trunk(given.wanted)[:, 0].numpy()  # (B, P)
            self.integers = self.integers.more(self._runner.read_integers(tokens, trunk.shape[1]), trunk)
        batch_size, sets = len(given.taken), active_sets(len(self._bundle.classes))
        batches = [(active,) * batch_size for active in sets]
        if can_mix:
            batches.append(tuple(sets[row % len(sets)] for row in range(batch_size)))
        every = range(len(self._bundle.classes))
        for actives in batches:
            in_model = [[self._positions[p] for p in active] for active in actives]
            wanted: Floats = _logits(self._model, given.wanted, in_model).numpy()
            got = self._runner.head(self._bundle, tokens, actives, every)
            yield self._case(given.name, actives, wanted, got)

    def _case(self, inputs: str, actives: tuple[tuple[int, ...], ...], wanted: Floats, got: Floats) -> ParityCase:
        """Compare logits of the model (B, C) with what the graph gives: (B, C), or (B, K) with padding behind."""
        every, longest, is_mixed = range(len(self._bundle.classes)), max(actives, key=len), len(set(actives)) > 1
        shape = (len(actives), len(every) if self._scores_all else len(longest))
        what = ParityCase(len(actives), longest, 0.0, is_mixed, inputs).describe()
        if got.shape != shape:
            raise ParityError(f"{what}: shape {got.shape}, expected {shape}")
        difference = 0.0
        for row, active in enumerate(actives):
            read = every if self._scores_all else active
            right, found = wanted[row, [self._positions[p] for p in read]], got[row, : len(read)]
            is_there = right > -np.inf  # the model has no score for a class whose row is left out
            right, found = right[is_there], found[is_there]
            if self._up_to_a_shift and len(right):
                right, found = right - right.mean(), found - found.mean()
            # a nan stays one, and fails
            difference = float(np.maximum(difference, np.abs(found - right).max(initial=0)))
            self.largest = max(self.largest, float(np.abs(right).max(initial=0)))
            if not (got[row, len(read) :] < -1e3).all():
                raise ParityError(f"{what}: a padded place of row {row} has a score")
        return ParityCase(len(actives), longest, difference, is_mixed, inputs)


def _positions(model: PromptedClassifier, bundle: Bundle) -> list[int]:
    """Position in the model of each of the bundle's classes.

    Raises:
        ParityError: the bundle is of another model.
    """
    own = dict(zip(model.classes.ids, model.classes.names, strict=True))
    lacking = [name for i, name in zip(bundle.classes.ids, bundle.classes.names, strict=True) if own.get(i) != name]
    if lacking:
        raise ParityError(f"the bundle has classes that the checkpoint lacks: {', '.join(lacking)}")
    for what, stated, wanted in (
        ("readout", bundle.stated.readout, model.config.readout),
        ("hidden size", bundle.stated.hidden_size, model.row_size),
        ("tokens per prompt", bundle.stated.prompt_tokens, model.config.prompt_tokens),
        ("input", bundle.input.model_shape, model.backbone.input_shape),
    ):
        if stated != wanted:
            raise ParityError(f"the bundle is not of this checkpoint: its {what} is {stated}, not {wanted}")
    return [model.classes.ids.index(i) for i in bundle.classes.ids]


def _logits(model: PromptedClassifier, inputs: torch.Tensor, actives: Sequence[Sequence[int]]) -> torch.Tensor:
    """The model's logits (B, C), each row computed with its own active set and no mask."""
    tokens = model.trunk(inputs)
    if len({tuple(active) for active in actives}) == 1:
        return model.head(tokens, shared_set(list(actives[0]), len(inputs), torch.device("cpu")))
    rows = [
        model.head(tokens[row : row + 1], shared_set(list(active), 1, torch.device("cpu")))
        for row, active in enumerate(actives)
    ]
    return torch.cat(rows)
