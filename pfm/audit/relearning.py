"""Relearning: an attacker adds the class again and fine-tunes the weights on a few samples of it.

First adapters only (those of the model, or new ones), then all weights. What counts is how fast the class comes back,
beside models that never saw it. (Relearning as a test of forgetting: 2505.22310.)

Letters: N test samples, n samples of the class, C classes left.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from pfm.audit import figures
from pfm.audit.comparisons.data import renumber
from pfm.audit.sampled import Sampled, area_of, placed
from pfm.classes import ClassList
from pfm.data.splits import Split
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import BANK, PromptedClassifier, class_row_names
from pfm.model.config import LoraSettings
from pfm.model.draws import shared_set
from pfm.model.lora import add_adapters, has_adapters
from pfm.seeds import make_generator

ADAPTERS, ALL = "adapters", "all weights"
SCOPES = (ADAPTERS, ALL)
NAME = "brought back"  # of the class that is added; no file has it


@dataclass(frozen=True)
class Lesson:
    """What the attacker learns from, and is tested on: model inputs, and positions in the model with the class added.

    Attributes:
        inputs, labels: (n + n′, …) samples of the class and of others, which it does not want to lose.
        forget, retain: (N, …) test inputs of the class and of the others.
        retain_labels: (N′,) positions of the latter.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    forget: torch.Tensor
    retain: torch.Tensor
    retain_labels: torch.Tensor

    @classmethod
    def of(
        cls, learned: tuple[Split, Split], tested: tuple[Split, Split], *, full: Checkpoint, positions: Sequence[int],
        device: torch.device,
    ) -> "Lesson":  # fmt: skip
        """Of samples whose labels are positions in the full model; the class is added behind the others.

        Args:
            learned, tested: each of the class, and of the others.
            positions: that went from the full model.
        """
        new, added = renumber(len(full.classes), positions), len(full.classes) - len(positions)
        (own, rest), (forget, retain) = learned, tested

        def inputs(split: Split) -> torch.Tensor:
            return split.inputs.to(device)

        return cls(
            inputs=full.preprocess(torch.cat([inputs(own), inputs(rest)])),
            labels=torch.cat([torch.full((len(own),), added), new[rest.labels]]).to(device),
            forget=full.preprocess(inputs(forget)),
            retain=full.preprocess(inputs(retain)),
            retain_labels=new[retain.labels].to(device),
        )


@dataclass(frozen=True)
class Relearned:
    """What had come back after some steps.

    Attributes:
        forget, retain: accuracy on the class and on the others, in [0, 1].
        area: AUROC of the class's score, class against rest.
    """

    forget: float
    retain: float
    area: Sampled


def with_class(checkpoint: Checkpoint, seed: int) -> Checkpoint:
    """The checkpoint with a class more, behind the others: a random prompt, and a row of zeros."""
    generator = make_generator(seed, "relearning")
    classes = checkpoint.classes
    more = ClassList((*classes.ids, max(classes.ids) + 1), (*classes.names, NAME))

    def longer(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = dict(tensors)
        for name in class_row_names():
            if name in found:
                rows = found[name]
                drawn = torch.randn(rows.shape[1:], generator=generator)
                new = drawn * rows.std() if name == BANK else torch.zeros_like(rows[0])
                found[name] = torch.cat([rows, new[None].to(rows)])
        return found

    return dataclasses.replace(
        checkpoint, classes=more, tensors=longer(checkpoint.tensors), averaged=longer(checkpoint.averaged), moments={}
    )


def relearn(
    checkpoint: Checkpoint, lesson: Lesson, *, scope: str, steps: Sequence[int], lr: float, seed: int
) -> list[Relearned]:
    """Fine-tune on the lesson, all of it each step, and test after each of `steps`.

    Args:
        checkpoint: without the class; its file is left as it is.
        scope: one of SCOPES.
        lr: of Adam.
    """
    device = lesson.inputs.device
    model = with_class(checkpoint, seed).build_model().to(device)
    optimizer = torch.optim.Adam(_tuned(model, scope, seed), lr=lr)
    found = []
    for step in range(max(steps) + 1):
        if step in steps:
            found.append(_test(model, lesson))
        logits = _logits(model, lesson.inputs)
        loss = F.cross_entropy(logits, lesson.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def _tuned(model: PromptedClassifier, scope: str, seed: int) -> list[torch.nn.Parameter]:
    """What is fine-tuned: the classes' rows always, and adapters or everything that is used."""
    if scope == ADAPTERS and not has_adapters(model.backbone):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            add_adapters(model.backbone, LoraSettings(lora_dropout=0.0), first_layer=0)
        model.to(next(model.bank.parameters()).device)
    chosen = []
    for name, parameter in model.named_parameters():
        is_used = bool(model.config.final_norm) or not name.startswith("backbone.encoder.layernorm.")
        is_tuned = name in model.class_row_names or (is_used and (scope == ALL or "lora_" in name))
        parameter.requires_grad_(is_tuned)
        chosen += [parameter] * int(is_tuned)
    return chosen


def _logits(model: PromptedClassifier, inputs: torch.Tensor) -> torch.Tensor:
    """(B, C + 1) with every prompt there, and `unknown` behind."""
    present = shared_set(list(range(model.num_classes)), len(inputs), inputs.device)
    return F.pad(model.logits(inputs, present), (0, 1), value=model.unknown_logit)


@torch.no_grad()
def _test(model: PromptedClassifier, lesson: Lesson, batch: int = 256) -> Relearned:
    own = model.num_classes - 1
    forget, retain = (
        torch.cat([_logits(model, chunk) for chunk in inputs.split(batch)]) for inputs in (lesson.forget, lesson.retain)
    )
    areas = area_of(*(figures.log_odds(logits, own).cpu() for logits in (forget, retain)))
    return Relearned(
        forget=float((forget.argmax(dim=1) == own).double().mean()),
        retain=float((retain.argmax(dim=1) == lesson.retain_labels).double().mean()),
        area=areas,
    )


def mean_area(found: Sequence[Relearned]) -> Sampled:
    """The area averaged over steps and repetitions: how fast the class came back."""
    own, rest = (torch.stack([one.area.parts[side] for one in found]).mean(dim=0) for side in (0, 1))
    return placed(own, rest)
