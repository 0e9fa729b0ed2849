"""Graph against model: names, then shapes, then values; the worst difference is reported.

Letters: B batch, K active prompts, C classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.draws import make_generator, shared_set
from pfm.errors import PfmError
from pfm.model import PromptedClassifier
from pfm_export.bundle import INPUT_BIAS, INPUT_PROMPTS, INPUT_WEIGHT, OUTPUT, Bundle
from pfm_export.session import load_graph

BATCH_SIZES = (1, 3, 8)
TOLERANCE = 1e-4  # absolute, on logits, float32


class ParityError(PfmError):
    """The graph does not give the model's numbers."""


@dataclass(frozen=True)
class ParityCase:
    """One batch size and one active set."""

    batch_size: int
    active: tuple[int, ...]
    worst_difference: float


@dataclass(frozen=True)
class ParityReport:
    """All cases compared, and the size of the numbers that were."""

    cases: tuple[ParityCase, ...]
    largest_logit: float

    @property
    def worst_difference(self) -> float:
        return max(case.worst_difference for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        return {
            "worst_difference": self.worst_difference,
            "largest_logit": self.largest_logit,
            "tolerance": TOLERANCE,
            "cases": [
                {"batch_size": c.batch_size, "num_prompts": len(c.active), "worst_difference": c.worst_difference}
                for c in self.cases
            ],
        }


def active_sets(num_classes: int) -> list[tuple[int, ...]]:
    """Sets of size 0, 1, some and all, the last two in shuffled order."""
    order = torch.randperm(num_classes, generator=make_generator("parity", num_classes)).tolist()
    sets = [(), (order[0],), tuple(order[: (num_classes + 1) // 2]), tuple(order)]
    return list(dict.fromkeys(sets))


@torch.inference_mode()
def check_parity(model: PromptedClassifier, folder: Path, *, tolerance: float = TOLERANCE) -> ParityReport:
    """Compare a bundle in ONNX Runtime on the CPU with the torch model it was made from.

    Raises:
        ParityError: another name, another shape, or a difference above `tolerance`.
    """
    bundle = Bundle.open(folder)
    runtime = load_graph(bundle, device="cpu")
    is_cls = bundle.readout == "cls"
    expected = [bundle.input_name, INPUT_PROMPTS] + ([INPUT_WEIGHT, INPUT_BIAS] if is_cls else [])
    found = [node.name for node in runtime.get_inputs()] + [node.name for node in runtime.get_outputs()]
    if found != [*expected, OUTPUT[bundle.readout]]:
        raise ParityError(f"the graph's inputs and outputs are {found}, expected {[*expected, OUTPUT[bundle.readout]]}")

    model = model.eval()
    size = bundle.preprocess["size"]
    cases, largest = [], 0.0
    for batch_size in BATCH_SIZES:
        inputs = torch.randn(batch_size, 3, size, size, generator=make_generator("parity", batch_size))
        for active in active_sets(model.num_classes):
            logits = model.logits(inputs, shared_set(list(active), batch_size, torch.device("cpu")))  # (B, C)
            rows = bundle.rows(active)
            feed = {bundle.input_name: inputs.numpy(), INPUT_PROMPTS: rows.prompts}
            if is_cls:  # all classifier rows, fewer prompts: the paper's raw logits
                every = bundle.rows(range(model.num_classes))
                feed |= {name: every.feed()[name] for name in (INPUT_WEIGHT, INPUT_BIAS)}
                wanted = logits.numpy()
            else:
                wanted = logits[:, list(active)].numpy()
            got = np.asarray(runtime.run(None, feed)[0])
            if got.shape != wanted.shape:
                raise ParityError(
                    f"batch {batch_size}, {len(active)} prompts: shape {got.shape}, expected {wanted.shape}"
                )
            difference = float(np.abs(got - wanted).max(initial=0))
            largest = max(largest, float(np.abs(wanted).max(initial=0)))
            if not difference <= tolerance:
                raise ParityError(
                    f"batch {batch_size}, {len(active)} prompts: the graph is {difference:.1e} off, "
                    f"more than {tolerance:.0e}"
                )
            cases.append(ParityCase(batch_size, active, difference))
    return ParityReport(tuple(cases), largest)
