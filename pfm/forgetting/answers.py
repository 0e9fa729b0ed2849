"""Answers before and after: what an erasure changes for the classes that are left, on test samples or random inputs.

Letters: N samples, B batch, C classes that are left.
"""

from collections.abc import Callable, Iterator
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

Scores = Callable[[Views, list[int]], torch.Tensor]  # with the prompts at these positions there -> (B, C)


@dataclass(frozen=True, kw_only=True)
class AnswersChange:
    """Answers with the classes that are left.

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

    @property
    def share(self) -> str:
        """The share that changed, and of what."""
        return f"{100 * self.changed:.1f} % of {self.num_samples} {self.measured_on}"

    @property
    def rates(self) -> str:
        """Before and after, in brackets; "" on random inputs."""
        if self.before is None or self.after is None:
            return ""
        return f" ({100 * self.before:.1f} % right before, {100 * self.after:.1f} % after)"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What two models are asked.

    Attributes:
        split: test samples as stored; None takes random inputs.
        data: classes of the split's labels.
    """

    split: Split | None = None
    data: ClassList | None = None
    device: str = "cpu"
    batch_size: int = 128
    num_random: int = 256


@torch.inference_mode()
def compare_answers(full: Checkpoint, erased: Checkpoint, scores: Scores, asked: Asked) -> AnswersChange:
    """Ask both about the classes that are left in the second.

    Args:
        full: has at least these classes.
        scores: given the positions of these classes' prompts, (B, C) in their order.

    Raises:
        DataError: the samples are not of these classes.
        BackboneError: the model cannot be built.
    """
    kept = [full.classes.ids.index(number) for number in erased.classes.ids]
    models = [checkpoint.build_model().to(asked.device) for checkpoint in (full, erased)]
    stored_as = None if asked.split is None else erased
    answers: list[list[torch.Tensor]] = [[], []]
    for inputs in _batches(full, asked):
        for found, model, positions in zip(answers, models, (kept, list(range(len(kept)))), strict=True):
            views = _views(model, stored_as, inputs.to(asked.device))
            found.append(model.predict(scores(views, positions)).cpu())
    first, second = (torch.cat(parts) for parts in answers)  # (N,)
    if asked.split is None or asked.data is None:
        return AnswersChange(
            measured_on="random inputs",
            num_samples=len(first),
            before=None,
            after=None,
            changed=_share(first != second),
        )
    labels = label_positions(erased.classes, asked.data, erased.erased)[asked.split.labels]
    is_left = labels >= 0
    labels, first, second = labels[is_left], first[is_left], second[is_left]
    return AnswersChange(
        measured_on="test samples",
        num_samples=len(labels),
        before=_share(first == labels),
        after=_share(second == labels),
        changed=_share(first != second),
    )


def of_all(views: Views, positions: list[int]) -> torch.Tensor:
    """One forward with all of their prompts there, (B, C)."""
    return _with(views, positions)[:, positions].float()


def of_each_alone(views: Views, positions: list[int]) -> torch.Tensor:
    """The largest logit (B, C) of each class over the forwards with one of their prompts."""
    return torch.stack([_with(views, [position])[:, positions].float() for position in positions]).amax(dim=0)


def _with(views: Views, present: list[int]) -> torch.Tensor:
    tokens, _ = views.windows[0]
    return views.logits(shared_set(present, len(tokens), tokens.device))


def _views(model: PromptedClassifier, stored_as: Checkpoint | None, inputs: torch.Tensor) -> Views:
    if stored_as is None:
        return Views(model, [(model.trunk(inputs), None)])
    return Views.of(model, stored_as.preprocess, inputs)


def _share(holds: torch.Tensor) -> float:
    return float(holds.double().mean()) if len(holds) else 0.0


def _batches(full: Checkpoint, asked: Asked) -> Iterator[torch.Tensor]:
    """Inputs (B, …) as stored, or as the model takes them where they are random."""
    if asked.split is not None:
        for index in torch.arange(len(asked.split)).split(asked.batch_size):
            yield asked.split.inputs[index]
        return
    generator = make_generator("infer_best")
    for index in torch.arange(asked.num_random).split(asked.batch_size):
        yield torch.randn(len(index), *full.spec.input_shape, generator=generator)
