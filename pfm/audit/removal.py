"""The removal itself: what the file still holds, what removing cost, which share of what learned from it stays."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from pfm.audit.groups import Groups
from pfm.audit.rivals import Rival
from pfm.audit.subject import as_subject
from pfm.forgetting.erase import erase
from pfm.model.checkpoint import Checkpoint
from pfm.model.classifier import PromptedClassifier, class_row_names


def still_stored(
    judged: Checkpoint, model: PromptedClassifier | None, groups: Groups, gone: list[int], ids: tuple[int, ...]
) -> dict[str, Any]:
    """What the judged file still holds of the classes, and what putting the stored prompts back gives."""
    held = sorted(number for number in gone if number in judged.classes.ids)
    found: dict[str, Any] = {"classes": held, "forget_accuracy": None}
    if model is not None:
        log_p = as_subject("stored", model, judged.preprocess, ids).log_probabilities(groups.forget_test)
        found["forget_accuracy"] = float((log_p.argmax(dim=1) == groups.forget_test.labels).double().mean())
    return found


def removal_cost(
    full: Checkpoint, names: list[str], oracles: list[Rival], tuned: Rival, groups: Groups, device: torch.device
) -> dict[str, Any]:
    """Seconds of an erasure until the first answer without the class, and of what it replaces."""
    seconds = []
    inputs = full.preprocess(groups.forget_test.inputs[:1].to(device))
    for _ in range(20):
        started = time.perf_counter()
        model = erase(full, names).build_model().to(device)
        with torch.no_grad():
            model.logits(inputs, torch.arange(model.num_classes, device=device)[None])
        seconds.append(time.perf_counter() - started)
    seconds.sort()
    return {
        "erase_p50_s": seconds[len(seconds) // 2],
        "erase_p99_s": seconds[-1],
        "retrain_s": oracles[0].seconds,
        "finetune_s": tuned.seconds,
    }


def exposure(full: Checkpoint, positions: Sequence[int]) -> dict[str, Any]:
    """Which part of what learned from samples of the class stays."""
    trained = sum(tensor.numel() for tensor in full.tensors.values())
    erased = sum(full.tensors[name][list(positions)].numel() for name in class_row_names() if name in full.tensors)
    return {"trained": trained, "erased": erased, "residual": 1 - erased / trained}
