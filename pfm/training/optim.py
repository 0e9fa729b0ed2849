"""The optimizer, its learning rate over a run, and the average of what it trains."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.model.sharding import shared_out
from pfm.options import option


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the trained tensors move; the defaults are the paper's."""

    lr: float = option(1e-3, "Learning rate.", minimum=0.0)
    optimizer: str = option("adam", "Optimizer.", choices=("adam", "adamw"))
    weight_decay: float = option(0.0, "Weight decay; decoupled with adamw.", minimum=0.0)
    schedule: str = option("constant", "Learning rate over the run.", choices=("constant", "cosine"))
    warmup: float = option(0.0, "Part of the run in which the learning rate rises linearly from 0.", minimum=0.0)
    max_grad_norm: float = option(0.0, "Clip the norm of the gradient to this; 0: never.", minimum=0.0)
    ema: float = option(
        0.0,
        "Keep an exponential moving average of the trained tensors with this decay, and evaluate and export it; 0: no.",
        minimum=0.0,
    )

    def __post_init__(self) -> None:
        if self.warmup > 1:
            raise ConfigError(f"--warmup {self.warmup:g} is a part of the run; give a value from 0 to 1")
        if self.ema >= 1:
            raise ConfigError(f"--ema {self.ema:g} never moves; give a value below 1, such as 0.999")

    @property
    def depends_on_length(self) -> bool:
        """Whether the learning rate of a step depends on how many steps there will be."""
        return self.schedule != "constant" or self.warmup > 0


def learning_rate(step: int, total_steps: int, config: OptimConfig) -> float:
    """The rate of step `step` (from 0): a linear warm-up, then constant or half a cosine."""
    warmup = round(config.warmup * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total_steps - warmup)))


def build_optimizer(model: PromptedClassifier, config: OptimConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over the trained tensors; decay is for matrices only."""
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    trained = model.trained_tensors()
    decayed = [t for name, t in trained.items() if t.ndim > 1 and "embeddings" not in name and "bank" not in name]
    plain = [t for t in trained.values() if all(t is not other for other in decayed)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
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
