"""What a frozen trunk makes of a split, computed once and kept.

Letters: N inputs, B batch, T tokens of the backbone, D hidden size.
"""

from collections.abc import Callable

import torch

from pfm.data.config import FeedConfig
from pfm.data.mapped import mapped_tensor
from pfm.device import Processes
from pfm.errors import ConfigError
from pfm.model.classifier import PromptedClassifier
from pfm.model.views import StoredInputs, Views
from pfm.runlog import progress


class TrunkCache:
    """The tokens (N, T, D) that a frozen trunk makes of a split, computed once."""

    def __init__(self, tokens: torch.Tensor, device: torch.device) -> None:
        self.tokens = tokens
        self.device = device

    def __call__(self, index: torch.Tensor) -> torch.Tensor:
        """(B,) -> (B, T, D) on the device."""
        return self.tokens[index.to(self.tokens.device)].to(self.device, non_blocking=True)

    def views(self, model: PromptedClassifier, index: torch.Tensor) -> Views:
        """What the model sees of the samples at `index` (B,)."""
        return Views(model, [(self(index), None)])


def check_cache(config: FeedConfig, *, trunk_is_frozen: bool, is_augmented: bool) -> None:
    """Refuse a cache of what would change.

    Raises:
        ConfigError: the trunk trains, or the images are not the same in each epoch.
    """
    if config.cache_trunk == "off":
        return
    if not trunk_is_frozen:
        raise ConfigError("--cache_trunk keeps what frozen blocks compute; --tune full trains them. Use --tune lora")
    if is_augmented:
        raise ConfigError(
            "--cache_trunk keeps what is the same each epoch; augmented inputs, and clips longer than the model's "
            "window, which are cropped at random, are not"
        )


@torch.no_grad()
def cache_trunk(
    model: PromptedClassifier,
    stored: StoredInputs,
    where: str,
    processes: Processes,
    *,
    batch_size: int,
    name: str,
    say: Callable[[str], None] = lambda _: None,
) -> TrunkCache:
    """Run the trunk over all inputs of a split and keep the tokens.

    Args:
        where: "device", "host" or "disk".
        name: of the split, in messages.
        say: is told how much memory that takes, before it is taken.
    """
    device, count = processes.device, len(stored)
    was_training = model.training
    model.eval()
    kept: torch.Tensor | None = None
    with progress(count, f"cache of {name}", unit="img", is_main=processes.is_main) as bar:
        for index in torch.arange(count).split(batch_size):
            with processes.autocast():
                tokens = model.trunk(stored(index))  # (B, T, D)
            if kept is None:
                shape = torch.Size((count, *tokens.shape[1:]))
                size_mib = shape.numel() * tokens.dtype.itemsize / 2**20
                say(
                    f"trunk of {name}: {count:,} images x {shape[1]} tokens, {size_mib:,.0f} MiB in each process "
                    f"({where})"
                )
                kept = _reserve(shape, tokens.dtype, where, device)
            kept[index[0] : index[-1] + 1] = tokens.to(kept.device)
            bar.update(len(index))
    model.train(was_training)
    assert kept is not None
    return TrunkCache(kept, device)


def _reserve(shape: torch.Size, dtype: torch.dtype, where: str, device: torch.device) -> torch.Tensor:
    if where == "device":
        return torch.empty(shape, dtype=dtype, device=device)
    if where == "host":
        return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")
    return mapped_tensor(tuple(shape), dtype, "--cache_trunk disk")
