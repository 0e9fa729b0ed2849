"""What the removal costs, in seconds, beside what it replaces."""

import time
from typing import TypedDict

import torch

from pfm.audit.attacks.attack import Measurement
from pfm.audit.markup import table
from pfm.audit.models import Models
from pfm.forgetting.erase import erase

ROUNDS = 20


class CostFigures(TypedDict):
    """Seconds from the call of `erase` to the first answer without the class, and of training once."""

    erase_p50_s: float
    erase_p99_s: float
    retrain_s: float
    finetune_s: float


class Cost:
    """Erasing against fine-tuning and retraining."""

    name = "cost"
    about = "no attack: what the removal costs"

    def measure(self, models: Models) -> Measurement[CostFigures]:
        seconds = []
        inputs = models.full.preprocess(models.groups.forget_test.inputs[:1].to(models.device))
        for _ in range(ROUNDS):
            started = time.perf_counter()
            model = erase(models.full, models.names).build_model().to(models.device)
            with torch.no_grad():
                model.logits(inputs, torch.arange(model.num_classes, device=models.device)[None])
            seconds.append(time.perf_counter() - started)
        seconds.sort()
        return Measurement(
            {
                "erase_p50_s": seconds[len(seconds) // 2],
                "erase_p99_s": seconds[-1],
                "retrain_s": models.oracles[0].seconds,
                "finetune_s": models.finetuned.seconds,
            }
        )

    def show(self, figures: CostFigures) -> str:
        rows = [
            ["erase until the first answer without the class, p50", f"{1000 * figures['erase_p50_s']:.1f} ms"],
            [f"the same, slowest of {ROUNDS}", f"{1000 * figures['erase_p99_s']:.1f} ms"],
            ["fine-tuning on the retained samples", f"{figures['finetune_s']:.1f} s"],
            ["retraining without the class", f"{figures['retrain_s']:.1f} s"],
        ]
        return "<h2>Cost of the removal</h2>" + table(["", ""], rows)
