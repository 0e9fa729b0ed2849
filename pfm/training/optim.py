"""The optimizer, its learning rate over a run, and the average of what it trains."""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pfm.model.classifier import BANK, PromptedClassifier
from pfm.model.sharding import shared_out
from pfm.training.config import OptimConfig


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then constant or half a cosine."""
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def build_optimizer(model: PromptedClassifier, config: OptimConfig, *, prompt_lr: float = 1.0) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained tensors; decay is for matrices only.

    Args:
        prompt_lr: of the prompts, as a multiple of the run's rate; a group has its multiple as "share".
    """
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    trained = model.trained_tensors()
    decayed = [t for name, t in trained.items() if t.ndim > 1 and "embeddings" not in name and name != BANK]
    plain = [t for name, t in trained.items() if name != BANK and all(t is not other for other in decayed)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay, "share": 1.0},
        {"params": plain, "weight_decay": 0.0, "share": 1.0},
        {"params": [trained[BANK]], "weight_decay": 0.0, "share": prompt_lr},
    ]
    return kind([group for group in groups if group["params"]], lr=config.lr, fused=True)


class Average:
    """An exponential moving average of the trained tensors (Polyak and Juditsky, 1992)."""

    def __init__(self, model: PromptedClassifier, decay: float) -> None:
        self.trained = model.trained_tensors()
        self.tensors = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        self.is_applied = False
        self._update = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take in the tensors as they are after a step."""
        current = [tensor.detach() for tensor in self.trained.values()]
        self._update(list(self.tensors.values()), current, 0)  # type: ignore[arg-type]

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from a saved average."""
        for name, tensor in self.tensors.items():
            tensor.copy_(shared_out(tensors[name], tensor))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The model computes with the average while the block runs."""
        self._swap()
        self.is_applied = True
        try:
            yield
        finally:
            self.restore()

    def restore(self) -> None:
        """Give the model its own tensors back, if the average stands in for them."""
        if self.is_applied:
            self._swap()
            self.is_applied = False

    @torch.no_grad()
    def _swap(self) -> None:
        for name, tensor in self.trained.items():
            own = tensor.detach().clone()
            tensor.copy_(self.tensors[name])
            self.tensors[name].copy_(own)
