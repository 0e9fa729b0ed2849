"""A linear classifier on projected integers of frozen features, solved from sums over the samples: it forgets exactly.

The backbone and the projection see no prompts. Scores are rows of one solution; a class that is left out has no row,
and so no score. Random projections in front of a ridge head: RanPAC (McDonnell et al., 2023, arXiv 2307.02251).

Letters: B batch, T tokens, D hidden size of the backbone, F numbers of a feature vector, P columns of the projection,
C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from pfm.exact import stored
from pfm.exact.memory import Memory
from pfm.exact.recipe import LARGEST, UNIT, Projection, Recipe
from pfm.exact.threshold import leave_one_out_threshold
from pfm.model.readouts.linear import LinearReadout

if TYPE_CHECKING:
    from pfm.model.checkpoint import Checkpoint
    from pfm.model.classifier import PromptedClassifier
    from pfm.model.config import ModelConfig


class Head(nn.Module):
    """The fixed projection and the rows that were solved.

    Attributes:
        projection: (F, P) int8 of -1, 0 and 1.
        offset: (P,) int32.
        weight, bias: (C, P) and (C,), a row a class.
    """

    projection: torch.Tensor
    offset: torch.Tensor

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        super().__init__()
        self.bound, self.scale = recipe.bound, 2.0**-recipe.shift
        self.register_buffer("projection", torch.zeros(recipe.size, recipe.width, dtype=torch.int8))
        self.register_buffer("offset", torch.zeros(recipe.width, dtype=torch.int32))
        self.weight = nn.Parameter(torch.zeros(num_classes, recipe.width))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def quantise(self, features: torch.Tensor) -> torch.Tensor:
        """Features (B, F) -> integers from -bound to bound, in float32."""
        return (features * UNIT).round().clamp(-self.bound, self.bound)

    def project(self, integers: torch.Tensor) -> torch.Tensor:
        """(B, F) -> (B, P), integers from 0 to 4095 in float32; all sums are below 2^24, and so exact in any order.

        On a GPU in float64: a program may have allowed float32 products whose factors keep 10 bits (TF32).
        """
        exact = torch.float64 if integers.device.type == "cuda" else torch.float32
        with torch.autocast(integers.device.type, enabled=False):
            sums = integers.to(exact) @ self.projection.to(exact) + self.offset.to(exact)
        return (sums.relu() * self.scale).floor().clamp(max=LARGEST).float()


class Ridge(LinearReadout):
    """A class whose row is left out has the logit -inf."""

    class_rows = ("ridge.weight", "ridge.bias")
    scores_absent = False
    sees_prompts = False
    procedure = "fit"
    stored = ("ridge.projection", "ridge.offset")
    measures_input = False
    holds_out = False
    row_scale = 2.0**-15
    meanings: ClassVar[Mapping[str, str]] = {
        "full_bank": "every class has its row",
        "full_bank_shuffle": "every class, in another order: the same",
        "match_only": "only the sample's own row: always right",
        "mixed_subset": "its own row and some others",
        "all_wrong": "every row but its own: never right",
        "wrong_subset": "some other rows, not its own: never right",
        "random_wrong": "one other row: never right",
        "none": "no row: answers nothing",
        "infer_best": "the largest score of all rows: the full solution",
    }
    erasure_is_exact = True

    def misfit(self, config: ModelConfig) -> str:
        if config.tune not in ("auto", "prompts"):
            return (
                f"--tune {config.tune}: the features of --readout ridge are frozen, since what was tuned on the data "
                "could not forget it; leave --tune out"
            )
        for name, neutral in (("wrong_target", ("uniform",)), ("prompt_layer", (0,)), ("prompt_tokens", (0, 1))):
            if getattr(config, name) not in neutral:
                return f"--{name} is about prompts, which --readout ridge does not have; leave it out"
        if config.abstain and config.memory != "features":
            return (
                f"--abstain with --memory {config.memory}: the threshold of --readout ridge is a function of stored "
                "samples; give --memory features"
            )
        return ""

    def settled(self, config: ModelConfig) -> ModelConfig:
        return dataclasses.replace(config, tune="prompts", prompt_tokens=0)

    def parts(self, hidden_size: int, num_classes: int) -> dict[str, nn.Module]:
        raise NotImplementedError("its parts depend on the family's features; see `parts_of`")

    def parts_of(self, model: PromptedClassifier) -> dict[str, nn.Module]:
        return {"ridge": Head(recipe_of(model, {}), model.num_classes)}

    def row_size(self, model: PromptedClassifier) -> int:
        return model.config.width

    def num_tokens(self, model: PromptedClassifier) -> int:
        return 1

    def features(self, model: PromptedClassifier, inputs: torch.Tensor) -> torch.Tensor:
        """Model input (B, …) -> integers (B, F) in float32."""
        backbone, config = model.backbone, model.config
        outputs = backbone.run_blocks(backbone.embed(inputs), 0, backbone.num_layers)  # (B, T, D)
        is_normalised = bool(config.final_norm)
        summary = backbone.summary(outputs, is_normalised=is_normalised)
        patches = outputs[:, backbone.spec.num_special :]
        patches = backbone.normalise(patches) if is_normalised else patches
        features = backbone.spec.family.features(summary, patches, config.feature_tokens)
        return _head(model).quantise(features.float())

    def recipe_size(self, model: PromptedClassifier) -> int:
        """F."""
        return _head(model).projection.shape[0]

    def bound(self, model: PromptedClassifier) -> int:
        """The largest integer of a feature."""
        return _head(model).bound

    def trunk(self, model: PromptedClassifier, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 1, P): the projected integers."""
        return _head(model).project(self.features(model, inputs)).unsqueeze(1)

    def read(
        self, model: PromptedClassifier, tokens: torch.Tensor, prompts: torch.Tensor, key_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return tokens

    def reads(self, num_own: int) -> slice:
        return slice(0, 1)

    def by_class(self, scores: torch.Tensor, present: torch.Tensor, num_classes: int) -> torch.Tensor:
        absent = torch.full_like(scores, -torch.inf)
        return absent.scatter(1, present, scores.gather(1, present))

    def after_erasure(self, checkpoint: Checkpoint) -> Checkpoint:
        """The memory without the classes that are gone, and the rows solved from it."""
        memory = memory_of(checkpoint)
        gone = [name for name in memory.classes if name not in checkpoint.classes.names]
        return with_memory(checkpoint, memory.without_classes(gone))


RIDGE = Ridge()


def _head(model: PromptedClassifier) -> Head:
    head = model.get_submodule("ridge")
    assert isinstance(head, Head)
    return head


def recipe_of(model: PromptedClassifier, features: dict[str, Any]) -> Recipe:
    """What is fixed before any sample is seen.

    Args:
        features: what the feature vectors are, in plain values.
    """
    spec, config = model.backbone.spec, model.config
    size = spec.family.feature_size(spec.config, config.feature_tokens)
    return Recipe(features=features, size=size, width=config.width, alpha=config.alpha)


def memory_of(checkpoint: Checkpoint) -> Memory:
    """What a checkpoint's rows were solved from.

    Raises:
        CheckpointError: it is damaged.
    """
    matrix, offset = (checkpoint.tensors[name].numpy() for name in RIDGE.stored)
    return stored.from_stored(checkpoint.exact, checkpoint.memory, Projection(matrix, offset))


def with_memory(checkpoint: Checkpoint, memory: Memory) -> Checkpoint:
    """The checkpoint with another memory, and the rows and the threshold of its own classes, which follow from it.

    Without sums or samples (`--memory none`) the rows stay as they are: the head is not an exact one from then on.
    """
    is_solved, share = memory.can_solve, checkpoint.model.abstain
    rows = rows_of(memory, checkpoint.classes.names) if is_solved else {}
    return dataclasses.replace(
        checkpoint,
        tensors={**checkpoint.tensors, **rows},
        exact={**stored.to_record(memory), "is_solved": is_solved},
        memory=stored.to_tensors(memory),
        unknown_below=leave_one_out_threshold(memory, share) if share and is_solved else checkpoint.unknown_below,
    )


def rows_of(memory: Memory, names: tuple[str, ...], only: tuple[str, ...] | None = None) -> dict[str, torch.Tensor]:
    """The rows of classes in the order of `names`, by the parameters' names.

    Args:
        only: solve as if there were no others; zeros stand in for the rest.
    """
    solved = memory.solve(only)
    nothing = (np.zeros(memory.recipe.width), 0.0)
    found = [solved.get(name, nothing) for name in names]
    weight, bias = np.stack([row for row, _ in found]), np.array([one for _, one in found])
    return {"ridge.weight": torch.from_numpy(weight).float(), "ridge.bias": torch.from_numpy(bias).float()}
