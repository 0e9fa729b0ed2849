"""Graph against model: names, then shapes, then values; the worst difference is reported.

Letters: B batch, K active prompts, C classes, S pixels of the model's side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pfm.data.images import ImagePreprocess
from pfm.data.inputs import preprocess_from_dict
from pfm.data.mel import log_mel
from pfm.data.sounds import SoundPreprocess
from pfm.errors import PfmError
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.seeds import make_generator
from pfm_export.serving.bundle import Bundle
from pfm_export.serving.runner import GraphRunner

BATCH_SIZES = (1, 3, 8)
# Of the largest logit, or of 1 where all logits are smaller. float32: rounding only. The others are
# bounds on random inputs that a wrong graph does not meet; what a precision costs on real data is
# measured as accuracy.
TOLERANCES = {"fp32": 1e-5, "fp16": 1e-2, "bf16": 5e-2, "int8": 0.2}
# two implementations of one antialiased resize differ by 1e-4 of a grey level, which the graph passes on
UINT8_TOLERANCE = 1e-4
# a convolution and a fast Fourier transform differ by rounding, which the logarithm of a quiet bin makes large
FRONTEND_TOLERANCE = 1e-3


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


@dataclass(frozen=True)
class ParityReport:
    """All cases compared, and the size of the numbers that were."""

    cases: tuple[ParityCase, ...]
    largest_logit: float
    relative_tolerance: float = TOLERANCES["fp32"]

    @property
    def worst_difference(self) -> float:
        return max(case.worst_difference for case in self.cases)

    @property
    def tolerance(self) -> float:
        """Absolute: the relative one times the largest logit, or times 1 where that is smaller."""
        return self.relative_tolerance * max(1.0, self.largest_logit)

    def to_dict(self) -> dict[str, Any]:
        return {
            "worst_difference": self.worst_difference,
            "largest_logit": self.largest_logit,
            "tolerance": self.tolerance,
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
        """
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

    The tolerance in float32 is 1e-5 of the largest logit (or of 1): `TOLERANCES`; with uint8 images
    `UINT8_TOLERANCE`, with samples `FRONTEND_TOLERANCE`.

    Args:
        tolerance: relative to the largest logit.  [default: by the bundle's precision]

    Raises:
        ParityError: another name, another shape, or a difference above the tolerance.
    """
    report = measure_parity(model, folder, tolerance=tolerance)
    report.require()
    return report


@torch.inference_mode()
def measure_parity(model: PromptedClassifier, folder: Path, *, tolerance: float | None = None) -> ParityReport:
    """As `check_parity`, but a difference is reported and not judged.

    Classes may have been erased from the bundle: those that are left are compared.

    Raises:
        ParityError: a bundle of another model, or a graph with other names or shapes.
    """
    bundle = Bundle.open(folder)
    positions = _positions(model, bundle)
    runner = GraphRunner(bundle)
    form = runner.form
    expected, found = form.signatures(bundle.readout, bundle.preprocess["kind"]), runner.signatures()
    for name, wanted in expected.items():
        if found[name] != wanted:
            raise ParityError(f"the inputs and outputs of {name} are {found[name]}, expected {wanted}")

    model = model.eval()
    cases: list[ParityCase] = []
    largest = 0.0
    sets = active_sets(len(bundle.classes))
    every = range(len(bundle.classes))
    for batch_size in BATCH_SIZES:
        for what, inputs, pixels in _inputs(bundle, runner, batch_size):
            tokens = runner.trunk(inputs)  # once, whatever the number of sets
            batches = [(active,) * batch_size for active in sets]
            if form.per_request_prompts and batch_size > 1:
                batches.append(tuple(sets[row % len(sets)] for row in range(batch_size)))
            for actives in batches:
                wanted = _logits(model, pixels, [[positions[p] for p in active] for active in actives]).numpy()
                got = runner.head(bundle, tokens, actives, every)
                longest = max(actives, key=len)
                shape = (batch_size, len(bundle.classes) if bundle.readout == "cls" else len(longest))
                case = ParityCase(batch_size, longest, 0.0, is_mixed=len(set(actives)) > 1, inputs=what)
                if got.shape != shape:
                    raise ParityError(f"{case.describe()}: shape {got.shape}, expected {shape}")
                difference = 0.0
                for row, active in enumerate(actives):
                    read = every if bundle.readout == "cls" else active
                    right = wanted[row, [positions[p] for p in read]]
                    # a nan stays one, and fails
                    difference = float(np.maximum(difference, np.abs(got[row, : len(right)] - right).max(initial=0)))
                    largest = max(largest, float(np.abs(right).max(initial=0)))
                    if not (got[row, len(right) :] < -1e3).all():
                        raise ParityError(f"{case.describe()}: a padded place of row {row} has a score")
                cases.append(ParityCase(batch_size, longest, difference, is_mixed=case.is_mixed, inputs=what))
    if tolerance is None:
        tolerance = max(
            TOLERANCES[form.precision],
            UINT8_TOLERANCE if form.uint8_input else 0,
            FRONTEND_TOLERANCE if form.with_frontend else 0,
        )
    return ParityReport(tuple(cases), largest, tolerance)


def _positions(model: PromptedClassifier, bundle: Bundle) -> list[int]:
    """Position in the model of each of the bundle's classes."""
    own = dict(zip(model.classes.ids, model.classes.names, strict=True))
    lacking = [name for i, name in zip(bundle.classes.ids, bundle.classes.names, strict=True) if own.get(i) != name]
    if lacking:
        raise ParityError(f"the bundle has classes that the checkpoint lacks: {', '.join(lacking)}")
    for what, stated, wanted in (
        ("readout", bundle.readout, model.config.readout),
        ("hidden size", bundle.manifest["hidden_size"], model.backbone.hidden_size),
        ("tokens per prompt", bundle.manifest["prompt_tokens"], model.config.prompt_tokens),
        ("input", _stated_shape(bundle.preprocess), model.backbone.input_shape),
    ):
        if stated != wanted:
            raise ParityError(f"the bundle is not of this checkpoint: its {what} is {stated}, not {wanted}")
    return [model.classes.ids.index(i) for i in bundle.classes.ids]


def _inputs(bundle: Bundle, runner: GraphRunner, batch_size: int) -> list[tuple[str, np.ndarray, torch.Tensor]]:
    """What goes in: a name for it, as the graph takes it, and as the model does (B, …)."""
    generator = make_generator("parity", batch_size)
    preprocess = preprocess_from_dict(bundle.preprocess)
    if isinstance(preprocess, SoundPreprocess) and runner.form.with_frontend:
        return _sounds(preprocess, batch_size, generator)
    if not (runner.form.uint8_input and isinstance(preprocess, ImagePreprocess)):
        inputs = torch.randn(batch_size, *_stated_shape(bundle.preprocess), generator=generator)
        return [("random", inputs.numpy(), inputs)]
    size = preprocess.size
    inputs = []
    for height, width in ((size, size), (2 * size + 3, size + 5), (size // 2 + 1, 3 * size)):
        images = torch.randint(0, 256, (batch_size, 3, height, width), generator=generator, dtype=torch.uint8)
        inputs.append((f"{width}x{height} uint8", images.permute(0, 2, 3, 1).contiguous().numpy(), preprocess(images)))
    return inputs


def _stated_shape(settings: dict[str, Any]) -> tuple[int, ...]:
    """Of one model input, as a manifest has it."""
    if settings["kind"] == "audio":
        return (settings["max_length"], settings["num_mel_bins"])
    return (3, settings["size"], settings["size"])


def _sounds(
    preprocess: SoundPreprocess, batch_size: int, generator: torch.Generator
) -> list[tuple[str, np.ndarray, torch.Tensor]]:
    """Noise, and tones that stop and begin, in clips of uneven length; features by torchaudio's filterbank."""
    form = preprocess.storage
    window = (preprocess.max_length - 1) * form.hop + form.frame_size
    found = []
    for what, longest in (("noise", window), ("tones", 2 * window), ("short clips", form.frame_size + 5 * form.hop)):
        lengths = torch.randint(form.frame_size, longest + 1, (batch_size,), generator=generator)
        lengths[0] = longest
        waves = 0.1 * torch.randn(batch_size, longest, generator=generator)
        if what == "tones":
            seconds = torch.arange(longest) / form.sampling_rate
            waves = 0.3 * (2 * torch.pi * 440 * seconds).sin() * (seconds * 8).sin().clamp_min(0) + 1e-3 * waves
        is_there = torch.arange(longest) < lengths.unsqueeze(1)
        taken = torch.where(is_there, waves, torch.nan)
        wanted = preprocess(log_mel(torch.where(is_there, waves, 0.0), lengths, form))
        found.append((what, taken.numpy(), wanted))
    return found


def _logits(model: PromptedClassifier, pixels: torch.Tensor, actives: Sequence[Sequence[int]]) -> torch.Tensor:
    """The model's logits (B, C), each row computed with its own active set and no mask."""
    tokens = model.trunk(pixels)
    if len({tuple(active) for active in actives}) == 1:
        return model.head(tokens, shared_set(list(actives[0]), len(pixels), torch.device("cpu")))
    rows = [
        model.head(tokens[row : row + 1], shared_set(list(active), 1, torch.device("cpu")))
        for row, active in enumerate(actives)
    ]
    return torch.cat(rows)
