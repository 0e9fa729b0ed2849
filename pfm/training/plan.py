"""What a run is going to do, said before it does it: samples, what becomes of an input, tokens, steps, memory, time.

Letters: C classes in the bank, T tokens of the backbone, D hidden size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pfm.evaluation.modes import DRAWN, mode_sets
from pfm.model.starts import STARTS
from pfm.training.position import num_due
from pfm.training.room import activation_bytes
from pfm.training.setup import Setup
from pfm.training.throughput import Rates

MOST_SHRUNK = 0.25  # share of an image's pixels below which shrinking it is named
FORECAST_STEPS = 20  # after which the time is estimated
WORTH_SAYING_S = 30.0  # shorter runs are over before one has read it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A run in numbers.

    Attributes:
        splits: samples by split.
        file_shape, stored_shape, input_shape: of a typical input as it came, as stored, and as the model takes it.
        stored_bytes: of all splits.
        recipe: its name, and what it chose.
        tokens: T; `prompt_tokens` stand behind them where all prompts are there.
        steps_per_epoch, epochs: of the whole run.
        evaluations: how many there are, each of `evaluated_sets` active sets.
        weight_bytes: of the model; `moving_bytes` of gradients and moments of what trains.
        activation_bytes: what a batch keeps for its backward pass, about.
        shared_samples: name of the data set where prompts start from its samples and others can have it too; "" of
            files of the user's own, and of other starts.
    """

    splits: dict[str, int]
    file_shape: tuple[int, ...]
    stored_shape: tuple[int, ...]
    input_shape: tuple[int, ...]
    stored_bytes: int
    recipe: str
    tokens: int
    prompt_tokens: int
    steps_per_epoch: int
    epochs: int
    global_batch: int
    evaluations: int
    evaluated_sets: int
    weight_bytes: int
    moving_bytes: int
    activation_bytes: int
    shared_samples: str = ""

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.steps_per_epoch * self.epochs

    @property
    def evaluation_share(self) -> float:
        """Arithmetic of all evaluations over that of all training, about.

        A training sample costs two branches, forward and backward, which is six forward passes.
        """
        evaluated = self.evaluations * self.evaluated_sets * self.splits["test"]
        return evaluated / max(6 * self.epochs * self.splits["train"], 1)

    def describe(self) -> str:
        """For people."""
        return "\n".join(["plan", *(f"  {line}" for line in self._lines())])

    def _lines(self) -> Iterator[str]:
        yield f"recipe   {self.recipe}"
        counts = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        yield f"samples  {counts}"
        came = "" if self.file_shape == self.stored_shape else f"files of about {_by(self.file_shape[-2:])} pixels, "
        yield f"input    {came}stored as {_by(self.stored_shape)}, brought to {_by(self.input_shape)}"
        yield f"tokens   {self.tokens} of the input, with its special ones, and {self.prompt_tokens} of all prompts"
        yield (
            f"steps    {self.steps:,}: {_counted(self.epochs, 'epoch')} of {_counted(self.steps_per_epoch, 'step')} of "
            f"{self.global_batch} samples; {_counted(self.evaluations, 'evaluation')} of {self.evaluated_sets} active "
            "sets"
        )
        yield (
            f"memory   data {_size(self.stored_bytes)}, weights {_size(self.weight_bytes)}, gradients and moments "
            f"{_size(self.moving_bytes)}, activations of a batch about {_size(self.activation_bytes)}"
        )

    def notes(self) -> list[str]:
        """What is to be put right before the run, a sentence each."""
        found = []
        sides, model = self.file_shape[-2:], self.input_shape[-2:]
        share = math.prod(model) / math.prod(sides)
        if len(self.stored_shape) == 3 and share < MOST_SHRUNK:
            found.append(
                f"images of {_by(sides)} are shrunk to {_by(model)}, {100 * share:.2g} % of their pixels; if what "
                "tells the classes apart is small, give a larger --image_size or another --model_name"
            )
        if self.shared_samples:
            found.append(
                f"prompts start from the samples of {self.shared_samples}: whoever has that data set can make the "
                "prompt of an erased class again; give --prompt_start secret if nobody is to"
            )
        return found

    def forecast(self, rates: Rates, *, steps_left: int) -> str | None:
        """How long the rest of the run takes at the rates of its first steps; None where that is soon."""
        training = steps_left * rates.step_ms / 1000
        evaluating = training * self.evaluation_share
        if training + evaluating < WORTH_SAYING_S:
            return None
        return (
            f"about {_duration(training + evaluating)} to go, at {rates.step_ms:.0f} ms a step"
            + (f" and about {_duration(evaluating)} for evaluations" if self.evaluations else "")
        )  # fmt: skip


def make_plan(setup: Setup) -> Plan:
    """The plan of a run that is set up; nothing is computed."""
    model, train, spec = setup.model, setup.config.train, setup.spec
    sizes = [tensor.nbytes for tensor in model.parameters()]
    trained = model.trained_tensors().values()
    tokens, prompts = spec.num_special + spec.num_patches, model.num_classes * model.config.prompt_tokens
    steps = -(-len(setup.labels) // setup.global_batch)
    stored, storage = tuple(setup.data.train.inputs.shape[1:]), setup.data.storage
    is_shared = STARTS.get(setup.config.start.prompt_start).samples and setup.config.data.place is None
    return Plan(
        splits={name: len(split) for name, split in setup.data.splits()},
        file_shape=stored if storage is None else storage.file_shape(stored),
        stored_shape=stored,
        input_shape=tuple(spec.input_shape),
        stored_bytes=sum(split.inputs.nbytes for _, split in setup.data.splits()),
        recipe=setup.config.recipe.describe(),
        tokens=tokens,
        prompt_tokens=prompts,
        steps_per_epoch=steps,
        epochs=train.epochs,
        global_batch=setup.global_batch,
        evaluations=num_due(train.epochs, train.eval_every),
        evaluated_sets=len(set(mode_sets(model.num_classes))) + len(DRAWN),
        weight_bytes=sum(sizes),
        moving_bytes=3 * sum(tensor.nbytes for tensor in trained),
        activation_bytes=activation_bytes(
            setup.config, spec, num_prompts=prompts, first=model.config.prompt_layer if model.trunk_is_frozen else 0,
            batch_size=train.batch_size,
        ),
        shared_samples=setup.data.name if is_shared else "",
    )  # fmt: skip


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + "s" * (number != 1)


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _size(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= 0.95 * factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
