"""What centring does to `infer_best`: the one answer that compares logits of different forwards.

An erasure moves the classifier rows that are left, and with them all logits of a forward by one number, another one
for each forward. Probabilities stay. `infer_best` runs a forward for each prompt and takes the largest logit of all of
them, so its answers can change. Both are computed, and the difference is said.

Letters: N samples, B batch, C classes that are left.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import torch

from pfm.classes import ClassList
from pfm.data.splits import Split
from pfm.evaluation.samples import label_positions
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier
from pfm.model.draws import shared_set
from pfm.model.views import Views
from pfm.seeds import make_generator
from pfm.storage import Json


@dataclass(frozen=True, kw_only=True)
class InferBestChange:
    """`infer_best` of the classes that are left, with their rows as they were and as the erasure left them.

    Attributes:
        measured_on: "test samples" of the classes that are left, or "random inputs".
        before, after: share of the samples that is answered right; None on random inputs.
        changed: share of the answers that are another class.
    """

    measured_on: str
    num_samples: int
    before: float | None
    after: float | None
    changed: float

    def to_dict(self) -> Json:
        """As it stands in a record."""
        return asdict(self)

    def describe(self) -> str:
        """One line for people."""
        rates = ""
        if self.before is not None and self.after is not None:
            rates = f" ({100 * self.before:.1f} % right before, {100 * self.after:.1f} % after)"
        return (
            f"infer_best, which compares logits of different forwards, answers {100 * self.changed:.1f} % of "
            f"{self.num_samples} {self.measured_on} otherwise than before the rows were centred{rates}; "
            "probabilities stay as they were"
        )


@torch.inference_mode()
def infer_best_change(
    full: Checkpoint,
    erased: Checkpoint,
    split: Split | None = None,
    data: ClassList | None = None,
    *,
    device: torch.device | None = None,
    batch_size: int = 128,
    num_random: int = 256,
) -> InferBestChange | None:
    """Compute `infer_best` before and after; None where no class has a classifier row, and nothing was centred.

    Args:
        full: what was erased from.
        erased: what `pfm.forgetting.erase.erase` made of it.
        split: test samples as stored; None takes random inputs.
        data: classes of the split's labels.

    Raises:
        DataError: the samples are not of these classes.
        BackboneError: the model cannot be built.
    """
    device = device or torch.device("cpu")
    models = [checkpoint.build_model().to(device) for checkpoint in (full, erased)]
    if not models[1].readout.class_rows:
        return None
    kept = [full.classes.ids.index(number) for number in erased.classes.ids]
    answers: list[list[torch.Tensor]] = [[], []]
    for inputs in _batches(full, split, batch_size, num_random):
        for found, model, positions in zip(answers, models, (kept, list(range(len(kept)))), strict=True):
            best = _best(model, erased if split is not None else None, inputs.to(device), positions)
            found.append(model.predict(best).cpu())
    first, second = (torch.cat(parts) for parts in answers)  # (N,)
    if split is None or data is None:
        return InferBestChange(
            measured_on="random inputs",
            num_samples=len(first),
            before=None,
            after=None,
            changed=_share(first != second),
        )
    labels = label_positions(erased.classes, data, erased.erased)[split.labels]
    is_left = labels >= 0
    labels, first, second = labels[is_left], first[is_left], second[is_left]
    return InferBestChange(
        measured_on="test samples",
        num_samples=len(labels),
        before=_share(first == labels),
        after=_share(second == labels),
        changed=_share(first != second),
    )


def _share(holds: torch.Tensor) -> float:
    return float(holds.double().mean()) if len(holds) else 0.0


def _batches(full: Checkpoint, split: Split | None, batch_size: int, num_random: int) -> Iterator[torch.Tensor]:
    """Inputs (B, …) as stored, or as the model takes them where they are random."""
    if split is not None:
        for index in torch.arange(len(split)).split(batch_size):
            yield split.inputs[index]
        return
    generator = make_generator("infer_best")
    for index in torch.arange(num_random).split(batch_size):
        yield torch.randn(len(index), *full.spec.input_shape, generator=generator)


def _best(
    model: PromptedClassifier, stored_as: Checkpoint | None, inputs: torch.Tensor, positions: list[int]
) -> torch.Tensor:
    """The largest logit (B, C) of each of the classes at `positions` over the forwards with one of their prompts."""
    views = (
        Views(model, [(model.trunk(inputs), None)])
        if stored_as is None
        else Views.of(model, stored_as.preprocess, inputs)
    )
    sets = (shared_set([position], len(inputs), inputs.device) for position in positions)
    return torch.stack([views.logits(present)[:, positions].float() for present in sets]).amax(dim=0)
