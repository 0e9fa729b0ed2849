"""The audit from end to end: every attack on the same models, then the verdict, as one document.

Letters: C classes of the full model.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pfm import __version__
from pfm.audit.attacks import ATTACKS
from pfm.audit.config import AuditConfig
from pfm.audit.models import AuditRequest, Models
from pfm.audit.rule import CONFIDENCE, RULE, prospects
from pfm.audit.verdict import Judgement, summarise
from pfm.registry import load_plugins

AuditDocument = dict[str, Any]  # audit.json: what was audited, each attack's figures under its name, the verdict


def audit(
    request: AuditRequest,
    config: AuditConfig,
    folder: Path,
    device: torch.device,
    *,
    say: Callable[[str], None] = print,
) -> AuditDocument:
    """Attack a model that was made to forget, beside one that never saw the classes.

    Args:
        folder: where comparison models are kept.

    Raises:
        ClassNameError: the full model does not have the classes.
        ConfigError: it does not say how it was trained.
    """
    load_plugins()
    started = time.monotonic()
    models = Models(request, config, folder, device, say)
    say(prospects(config.oracles, config.epsilon, config.most_oracles))
    if not models.learned.is_known:
        say(models.learned.reason)
    judgements: list[Judgement] = []
    with contextlib.closing(models):
        document = _described(models)
        for attack in ATTACKS:
            say(f"measuring {attack.name.replace('_', ' ')}")
            measurement = attack.measure(models)
            document[attack.name] = measurement.figures
            judgements += measurement.judgements
    document["verdict"] = summarise(judgements, models.learned)
    document["seconds"] = round(time.monotonic() - started, 1)
    return document


def _described(models: Models) -> AuditDocument:
    """What is audited, and how."""
    full = models.full
    return {
        "pfm": __version__,
        "classes": [{"id": i, "name": n} for i, n in zip(models.gone, models.names, strict=True)],
        "num_classes": len(full.classes),
        "readout": full.model.readout,
        "wrong_target": full.model.wrong_target,
        "config": dataclasses.asdict(models.config),
        "samples": {name: len(split) for name, split in models.groups.items()},
        "epsilon": models.config.epsilon,
        "rule": {
            "version": RULE,
            "confidence": CONFIDENCE,
            "epsilon": models.config.epsilon,
            "oracles": len(models.oracles),
        },
    }
